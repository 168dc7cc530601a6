"""`swd-video distill CONFIG --out DIR`: from a teacher and clips to a student of a few stages."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

HELP = "distill a teacher into a student of a few stages"

_DESCRIPTION = """Distil a teacher into a student that samples in a few stages.

Clips of the config's manifest are encoded first where the cache is not complete. Running the same command again after
it was stopped goes on from the last checkpoint.

Several processes share a step's batch: accelerate launch --config_file configs/accelerate/ddp.yaml --module
swd_video.cli.main distill CONFIG --out DIR.

Any key of the config is a flag too: --train.lr 1e-4 --train.kind lora --seed 3. The keys and their
defaults are explained in docs/distill.md and swd_video/config/; DIR/config.yaml shows all that were used.
"""

_OWN_FLAGS = ("--out", "--json", "--help")


@dataclass
class _Arguments:
    config: Annotated[Path, tyro.conf.Positional]
    """YAML file, for example configs/pocket/swd.yaml."""
    out: Path
    """Folder of the run: student/, train.json, config.yaml, checkpoints/, samples/, tensorboard/."""
    json: bool = False
    """Print one JSON object on stdout: student, steps, seconds, seconds_per_step, loss, stage_losses."""


def run(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: the words after `distill`.

    Returns:
        0 when the student is written, 1 when training stopped at a loss or a gradient that is not finite.

    Raises:
        ValueError: for wrong input, in one line.
    """
    own, overrides = split_flags(argv, _OWN_FLAGS)
    arguments = tyro.cli(
        _Arguments,
        prog="swd-video distill",
        description=_DESCRIPTION,
        args=own,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    from swd_video.config.load import load_config, parse_overrides

    config = load_config(arguments.config, parse_overrides(overrides))
    from swd_video.training.build import build_run, finished_summary, settle_precision
    from swd_video.training.finite import NonFiniteError
    from swd_video.training.loop import train
    from swd_video.training.processes import join_processes

    # Started by `accelerate launch`, this is one of several processes, of which the first speaks.
    speaks = join_processes().is_main_process
    config = settle_precision(config)
    summary = finished_summary(config, arguments.out)
    if summary is None:
        try:
            summary = train(build_run(config, arguments.out))
        except NonFiniteError as error:
            if speaks:
                print(f"error: {error}", file=sys.stderr)
            return 1
    if arguments.json and speaks:
        print(json.dumps(asdict(summary)))
    elif speaks:
        print(f"student of {summary.steps} steps: {summary.student}", file=sys.stderr)
    return 0


def split_flags(argv: list[str], own_flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the flags that are keys of the config, with their values."""
    own: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if not name.startswith("--") or name in own_flags:
            own.append(word)
            continue
        overrides.append(word)
        if not equals:
            overrides.extend(value for value in [next(words, None)] if value is not None)
    return own, overrides
