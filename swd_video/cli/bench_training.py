"""`swd-video bench training CONFIG`: a step beside its bare passes, and the weights that training holds."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys

_DESCRIPTION = """Time and memory of training on this machine, with the data and the losses of a distillation's config.

Whole optimizer steps (reading, noise, passes, clipping, optimizer, average) take turns with the bare forward and
backward passes of the same clips, in one process. Weights, optimizer and everything else that is alive between two
steps are counted. Nothing is kept of what the steps learned. Any key of the config is a flag too.
"""


@dataclass
class Arguments:
    """Flags of the command."""

    config: ConfigFile
    """YAML file of a distillation; clips are encoded first where its cache is not complete."""
    steps: int = 8
    """Steps to measure; each trains the stages that a run draws for it."""
    rounds: int = 5
    """Runs of each step and of its passes, of which the median counts."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of a summary."""


def run(argv: list[str]) -> int:
    """Run the bench."""
    arguments, keys = read_arguments_and_keys(Arguments, "bench training", argv, _DESCRIPTION)
    for flag in ("steps", "rounds"):
        if getattr(arguments, flag) < 1:
            raise ValueError(f"--{flag}: got {getattr(arguments, flag)}, expected at least 1.")
    from swd_video.cost.training_benchmark import measure_training
    from swd_video.training.config import load_config

    config = load_config(arguments.config, keys)
    print(f"{arguments.steps} steps, {arguments.rounds} rounds ...", file=sys.stderr, flush=True)
    result = measure_training(config, arguments.steps, arguments.rounds)
    print(json.dumps(result) if arguments.json_output else _describe(result))
    return 0


def _describe(result: dict[str, Any]) -> str:
    memory = result["memory"]
    additions = ", ".join(f"{name} {size:.3f}" for name, size in memory["additions_gib"].items())
    return "\n".join(
        [
            f"a step: {result['step_seconds']:.3f} s; its forward and backward passes alone: "
            f"{result['bare_seconds']:.3f} s; ratio {result['step_over_bare']:.3f}, of processor time "
            f"{result['step_over_bare_of_processor_time']:.3f}",
            f"base weights: {memory['base_gib']:.3f} GiB, {memory['base_copies']:.2f} copies of the teacher's "
            f"{memory['one_copy_gib']:.3f} GiB",
            *([f"beside them train (GiB): {additions}"] if additions else []),
            f"alive between steps: {memory['alive_gib']:.3f} GiB; highest: {memory['peak_gib']:.3f} GiB "
            f"({memory['peak_of']})",
        ]
    )
