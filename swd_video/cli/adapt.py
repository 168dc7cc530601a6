"""`swd-video adapt CONFIG --out DIR`: a teacher learns the small grids before students are distilled from it."""

from dataclasses import dataclass
from pathlib import Path

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys
from swd_video.cli.training import run_training

_DESCRIPTION = """Train a teacher by flow matching on every grid of a schedule (scale adaptation).

Takes the config of a distillation: its model, clips, schedule, train and adapt sections; loss does not count.
Stopped and started again, it goes on from the last checkpoint.

Any key of the config is a flag too: --train.lr 1e-5 --seed 3. The keys and their defaults are
explained in docs/keys.md and swd_video/training/config.py.
"""


@dataclass
class _Arguments:
    config: ConfigFile
    """YAML file, for example configs/pocket/swd.yaml."""
    out: Path
    """Folder of the run: teacher/ (a diffusers folder, or a LoRA file), train.json, adapt.yaml, checkpoints/."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: teacher, steps, seconds, seconds_per_step, loss, stage_losses."""


def run(argv: list[str]) -> int:
    """Run the command; returns 1 when training stopped at a loss or a gradient that is not finite, else 0."""
    arguments, keys = read_arguments_and_keys(_Arguments, "adapt", argv, _DESCRIPTION)
    from swd_video.training.config import load_config

    config = load_config(arguments.config, keys)
    from swd_video.training.build import adapt

    return run_training(lambda: adapt(config, arguments.out), "teacher", as_json=arguments.json_output)
