"""`swd-video plan CONFIG`: what a schedule costs to sample and to train, before it is paid."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from swd_video.cli.arguments import read_arguments_and_keys
from swd_video.cli.environment import collecting_no_garbage

if TYPE_CHECKING:
    from torch import nn

    from swd_video.core.grid import LatentSize
    from swd_video.cost.architecture import Architecture
    from swd_video.cost.plan import Request
    from swd_video.cost.step_cost import LossShape
    from swd_video.training.config import DistillConfig

HELP = "count what a schedule costs to sample and to train, without weights"

_DESCRIPTION = """Count what a schedule costs to sample and to train, from the model's config files alone.

Operations and memory are counted on shapes, without weights and without a GPU; times are estimates that follow from
them and from a GPU's peak speed. Any key of the config is a flag too, as in `swd-video distill`: --train.kind full.
docs/cost.md explains the output.
"""


@dataclass
class _Arguments:
    config: Annotated[Path, tyro.conf.Positional]
    """YAML file of a distillation, for example configs/wan2.1_1.3b/swd_4stage.yaml."""
    json: bool = False
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
    """Run the command.

    Args:
        argv: the words after `plan`.

    Raises:
        ValueError: for wrong input, in one line.
    """
    arguments, keys = read_arguments_and_keys(_Arguments, "plan", _DESCRIPTION, argv)
    with collecting_no_garbage():
        print(_plan(arguments, keys))
    return 0


def _plan(arguments: _Arguments, keys: dict[str, str]) -> str:
    from swd_video.cost.gpus import load_gpus, pick_gpus
    from swd_video.objectives.encoders import CriticEncoderConfig
    from swd_video.training.config import load_config

    config = load_config(arguments.config, keys)
    gpus = pick_gpus(load_gpus(arguments.gpus), arguments.gpu)

    from swd_video.cost.description import describe
    from swd_video.cost.plan import Assumptions, make_plan

    encoders = [term.encoder for term in config.loss.mmd]
    if any(encoder.sees_pixels for encoder in encoders):
        print(
            "warning: loss.mmd: encoders that see pixels, and decoding for them, are not counted.",
            file=sys.stderr,
        )
    if any(isinstance(encoder, CriticEncoderConfig) for encoder in encoders):
        print(
            "warning: loss.mmd: what the critic's additions take in its blocks is not counted.",
            file=sys.stderr,
        )
    assumptions = Assumptions(arguments.utilisation, arguments.reserve, arguments.num_clips)
    plan = make_plan(read_request(config), gpus, arguments.num_gpus, assumptions)
    return json.dumps(plan) if arguments.json else describe(plan)


def read_request(config: "DistillConfig") -> "Request":
    """What a distillation's config asks of a plan.

    Raises:
        ValueError: if its model cannot be found.
    """
    from swd_video.cost.architecture import load_architecture
    from swd_video.cost.plan import Request
    from swd_video.cost.training_cost import LoraShape
    from swd_video.cost.training_memory import TrainingSetup
    from swd_video.training.config import LoraTrainConfig
    from swd_video.training.optimizers import MuonConfig

    train, architecture = config.train, load_architecture(_counted_model(config), config.load.adapter)
    lora = train if isinstance(train, LoraTrainConfig) else LoraTrainConfig()
    targets = architecture.model.lora_targets if lora.targets is None else lora.targets
    return Request(
        architecture=architecture,
        schedule=config.scale_schedule(),
        setup=TrainingSetup(
            kind=train.kind,
            batch_size=train.batch_size,
            num_gpus=1,
            bf16=train.mixed_precision == "bf16",
            muon=isinstance(train.optimizer, MuonConfig),
            checkpointing=train.gradient_checkpointing,
            half_teacher=config.load.dtype != "float32",
            micro_batch_size=train.micro_batch_size,
            num_stages=train.stages_per_step,
            group_size=config.loss.group,
        ),
        lora=LoraShape(lora.rank, targets),
        losses=_read_losses(config, architecture),
        stage_weights=train.stage_weights or (1.0,) * len(config.schedule),
        steps=train.steps,
        extra_grids=_extra_grids(config, architecture),
        keep_checkpoints=train.keep_checkpoints,
    )


def _extra_grids(config: "DistillConfig", architecture: "Architecture") -> "tuple[LatentSize, ...]":

    grids = tuple(config.data.extra_latent_grids)
    for index, grid in enumerate(grids):
        try:
            architecture.spec.compression.tokens(grid)
        except ValueError as error:
            raise ValueError(f"data.extra_grids[{index}]: {error}") from None
    return grids


def _counted_model(config: "DistillConfig") -> str:
    """The model itself; where it is a folder that is not there yet, the one of its shape that the config names."""
    if config.architecture is None or Path(config.model).is_dir():
        return config.model
    print(
        f"note: model {config.model} is not there; counted as {config.architecture}, which `architecture` names.",
        file=sys.stderr,
    )
    return config.architecture


def _read_losses(config: "DistillConfig", architecture: "Architecture") -> "LossShape":
    from swd_video.cost.step_cost import LossShape
    from swd_video.cost.training_cost import LoraShape

    loss, middle = config.loss, (architecture.spec.num_blocks // 2,)
    compared: dict[object, int] = {}
    for term in loss.mmd:
        if term.weight > 0 and not term.encoder.sees_pixels:
            # Terms that see the same clips share a pair of runs.
            view = term.encoder, term.sigma_min, term.sigma_max
            compared[view] = max(compared.get(view, 0), *(term.block or middle))
    dmd, critic = loss.dmd, None
    if dmd is not None:
        critic = LoraShape(dmd.critic_rank, dmd.critic_targets or architecture.model.lora_targets)
    return LossShape(
        compared_blocks=tuple(compared.values()),
        critic=critic,
        guided=dmd is not None and (dmd.guidance_scale or architecture.spec.guidance_scale) != 1,
        heads=_heads(config, architecture),
        heads_block=0 if loss.gan is None else max(loss.gan.block or middle),
        own_inputs=config.train.backward_simulation,
        critic_updates=1 if dmd is None else dmd.critic_updates,
        heads_updates=1 if loss.gan is None else loss.gan.updates,
    )


def _heads(config: "DistillConfig", architecture: "Architecture") -> "tuple[nn.Module, ...]":
    gan = config.loss.gan
    if gan is None:
        return ()
    import torch

    from swd_video.objectives.gan import HEADS

    with torch.device("meta"):
        return tuple(HEADS[gan.head](architecture.spec.hidden_size, gan.hidden) for _ in gan.block or (0,))
