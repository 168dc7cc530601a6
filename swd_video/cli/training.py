"""What the commands that train share: a run, and how it ended."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swd_video.training.config import DistillConfig
    from swd_video.training.loop import Run, TrainSummary


def run_training(
    config: "DistillConfig",
    out: Path,
    result: str,
    finished: "Callable[[DistillConfig, Path], TrainSummary | None]",
    build: "Callable[[DistillConfig, Path], Run]",
    *,
    as_json: bool,
) -> int:
    """Train where that is not done already, and say how it ended.

    Args:
        config: all of it.
        out: folder of the run.
        result: what comes out, "student" or "teacher"; also its key in the JSON.
        finished: looks for the summary of an earlier run.
        build: makes the run.
        as_json: print the summary as one JSON object on stdout.

    Returns:
        0, or 1 when training stopped at a loss or a gradient that is not finite.

    Raises:
        ValueError: for wrong input, in one line.
        FolderInUseError: if another run trains there.
    """
    from swd_video.files import alone_in
    from swd_video.training.finite import NonFiniteError
    from swd_video.training.loop import train
    from swd_video.training.precision import settle_precision
    from swd_video.training.processes import join_processes

    # Started by `accelerate launch`, this is one of several processes, of which the first speaks.
    speaks = join_processes().is_main_process
    with alone_in(out) if speaks else nullcontext():
        config = settle_precision(config, out)
        summary = finished(config, out)
        if summary is None:
            try:
                summary = train(build(config, out))
            except NonFiniteError as error:
                if speaks:
                    print(f"error: {error}", file=sys.stderr)
                return 1
    if as_json and speaks:
        printed = asdict(summary)
        print(json.dumps({result: printed.pop("student"), **printed}))
    elif speaks:
        print(f"{result} after {summary.steps} steps: {summary.student}", file=sys.stderr)
    return 0
