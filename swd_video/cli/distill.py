"""`swd-video distill CONFIG --out DIR`: from a teacher and clips to a student of a few stages."""

from dataclasses import dataclass
from pathlib import Path

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys
from swd_video.cli.training import run_training

_DESCRIPTION = """Distil a teacher into a student that samples in a few stages.

Clips of the config's manifest are encoded first where the cache is not complete. Running the same command again after
it was stopped goes on from the last checkpoint.

Several processes share a step's batch: accelerate launch --config_file configs/accelerate/ddp.yaml --module
swd_video.cli.main distill CONFIG --out DIR.

Any key of the config is a flag too: --train.lr 1e-4 --train.kind lora --seed 3. The keys and their
defaults are explained in docs/keys.md and swd_video/training/config.py; DIR/config.yaml shows all that were used.
"""


@dataclass
class _Arguments:
    config: ConfigFile
    """YAML file, for example configs/pocket/swd.yaml."""
    out: Path
    """Folder of the run: student/, train.json, config.yaml, checkpoints/, samples/, tensorboard/."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: student, steps, seconds, seconds_per_step, loss, stage_losses."""


def run(argv: list[str]) -> int:
    """Run the command; returns 1 when training stopped at a loss or a gradient that is not finite, else 0."""
    arguments, keys = read_arguments_and_keys(_Arguments, "distill", argv, _DESCRIPTION)
    from swd_video.training.config import load_config

    config = load_config(arguments.config, keys)
    from swd_video.training.build import distill

    return run_training(lambda: distill(config, arguments.out), "student", as_json=arguments.json_output)
