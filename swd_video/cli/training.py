"""What the commands that train share: how a run ended, said."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swd_video.training.loop import TrainSummary


def run_training(train: "Callable[[], TrainSummary]", result: str, *, as_json: bool) -> int:
    """Train, and say how it ended; of several processes the first speaks.

    `result` is what comes out, "student" or "teacher", also its key in the JSON.

    Returns:
        0, or 1 when training stopped at a loss or a gradient that is not finite.
    """
    from swd_video.models.fsdp import join_processes
    from swd_video.training.finite import NonFiniteError

    speaks = join_processes().is_main_process
    try:
        summary = train()
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
