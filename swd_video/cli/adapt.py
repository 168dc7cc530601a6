"""`swd-video adapt CONFIG --out DIR`: a teacher learns the small grids before students are distilled from it."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from swd_video.cli.distill import split_flags

HELP = "train a teacher on every grid of a schedule, before distilling with its scores"

_DESCRIPTION = """Train a teacher by flow matching on every grid of a schedule (scale adaptation).

Takes the config of a distillation: its model, clips, schedule, train and adapt sections; loss does not count.
Stopped and started again, it goes on from the last checkpoint.

Any key of the config is a flag too: --train.lr 1e-5 --seed 3. The keys and their defaults are
explained in docs/distill.md and swd_video/config/.
"""

_OWN_FLAGS = ("--out", "--json", "--help")


@dataclass
class _Arguments:
    config: Annotated[Path, tyro.conf.Positional]
    """YAML file, for example configs/pocket/swd.yaml."""
    out: Path
    """Folder of the run: teacher/ (a diffusers folder, or a LoRA file), train.json, adapt.yaml, checkpoints/."""
    json: bool = False
    """Print one JSON object on stdout: teacher, steps, seconds, seconds_per_step, loss, stage_losses."""


def run(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: the words after `adapt`.

    Returns:
        0 when the teacher is written, 1 when training stopped at a loss or a gradient that is not finite.

    Raises:
        ValueError: for wrong input, in one line.
    """
    own, overrides = split_flags(argv, _OWN_FLAGS)
    arguments = tyro.cli(
        _Arguments,
        prog="swd-video adapt",
        description=_DESCRIPTION,
        args=own,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    from swd_video.config.load import load_config, parse_overrides

    config = load_config(arguments.config, parse_overrides(overrides))

    from swd_video.training.build import build_adaptation, finished_adaptation, settle_precision
    from swd_video.training.finite import NonFiniteError
    from swd_video.training.loop import train
    from swd_video.training.processes import join_processes

    speaks = join_processes().is_main_process
    config = settle_precision(config)
    summary = finished_adaptation(config, arguments.out)
    if summary is None:
        try:
            summary = train(build_adaptation(config, arguments.out))
        except NonFiniteError as error:
            if speaks:
                print(f"error: {error}", file=sys.stderr)
            return 1
    if arguments.json and speaks:
        printed = asdict(summary)
        print(json.dumps({"teacher": printed.pop("student"), **printed}))
    elif speaks:
        print(f"teacher after {summary.steps} steps: {summary.student}", file=sys.stderr)
    return 0
