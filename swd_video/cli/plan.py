"""`swd-video plan CONFIG`: what a schedule costs to sample and to train, before it is paid."""

import json
from dataclasses import dataclass
from pathlib import Path

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys
from swd_video.environment import collecting_no_garbage

_DESCRIPTION = """Count what a schedule costs to sample and to train, from the model's config files alone.

Operations and memory are counted on shapes, without weights and without a GPU; times are estimates that follow from
them and from a GPU's peak speed. Any key of the config is a flag too, as in `swd-video distill`: --train.kind full.
docs/cost.md explains the output.
"""


@dataclass
class _Arguments:
    config: ConfigFile
    """YAML file of a distillation, for example configs/wan2.1_1.3b/swd_4stage.yaml."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout."""
    gpu: str | None = None
    """Plan for this kind of GPU alone: A100 (of 80 GB), H100, H200, 4090, 5090, or one of --gpus."""
    num_gpus: int = 8
    """Most GPUs to train on; every number up to it that can share the batch evenly is planned."""
    gpus: Path | None = None
    """YAML file with more GPUs, in the form of swd_video/cost/gpus.yaml."""
    utilisation: float = 0.5
    """Share of its peak speed that a GPU is assumed to reach."""
    reserve: float = 0.1
    """Share of its memory that is left to the driver, work buffers and fragmentation."""
    num_clips: int = 1000
    """Clips in the latent cache, for its size on disk."""


def run(argv: list[str]) -> int:
    """Run the command."""
    arguments, keys = read_arguments_and_keys(_Arguments, "plan", argv, _DESCRIPTION)
    with collecting_no_garbage():
        print(_plan(arguments, keys))
    return 0


def _plan(arguments: _Arguments, keys: dict[str, str]) -> str:
    from swd_video.cost.gpus import load_gpus, pick_gpus
    from swd_video.training.config import load_config

    config = load_config(arguments.config, keys)
    gpus = pick_gpus(load_gpus(arguments.gpus), arguments.gpu)

    from swd_video.cost.description import describe
    from swd_video.cost.plan import Assumptions, make_plan

    assumptions = Assumptions(arguments.utilisation, arguments.reserve, arguments.num_clips)
    plan = make_plan(config, gpus, arguments.num_gpus, assumptions)
    return json.dumps(plan) if arguments.json_output else describe(plan)
