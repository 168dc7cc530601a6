"""Which parameter is moved by which optimizer."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from swd_video.config import Section

_Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWConfig(Section):
    """AdamW for everything."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a weight, times the learning rate, that each step takes off."""


class MuonConfig(Section):
    """Muon (orthogonalised momentum) for the matrices of transformer blocks, AdamW for everything else."""

    kind: Literal["muon"] = "muon"
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the average of the gradient."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a weight, times the learning rate, that each step takes off."""
    adamw_lr: float | None = Field(default=None, gt=0)
    """Learning rate of what Muon does not take; null is `train.lr`."""
    adjust_lr: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """How a matrix's shape scales its rate; `match_rms_adamw` makes rates tuned for AdamW fit."""


AnyOptimizer = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]


def build_optimizers(
    parameters: Mapping[str, nn.Parameter], config: AdamWConfig | MuonConfig, lr: float
) -> list[torch.optim.Optimizer]:
    """One AdamW; or Muon for the matrices of transformer blocks and AdamW for the rest.

    Returns:
        Optimizers that between them hold every parameter.

    Source: Muon is Scalable for LLM Training (arXiv 2502.16982), for `match_rms_adamw`.
    """
    # One fused kernel for all parameters: on a CPU the plain loop costs more than a small model's step.
    if not isinstance(config, MuonConfig):
        adamw = torch.optim.AdamW(
            parameters.values(), lr=lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        return [adamw]
    matrices = [weight for name, weight in parameters.items() if is_block_matrix(name, weight)]
    rest = [weight for name, weight in parameters.items() if not is_block_matrix(name, weight)]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                adjust_lr_fn=config.adjust_lr,
            )
        )
    if rest:
        rate = config.adamw_lr or lr
        optimizers.append(torch.optim.AdamW(rest, lr=rate, weight_decay=config.weight_decay, fused=True))
    return optimizers


def set_learning_rates(optimizers: Sequence[torch.optim.Optimizer], share: float | int) -> None:
    """Let optimizers go on at a share of the rates that they were made with, "initial_lr" in their groups."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share


def learning_rate_share(step: int | float, steps: int, warmup_steps: int = 100) -> float:
    """Share of a learning rate at a step, from 0: a linear rise, a long stay, a linear fall over the last 45 %."""
    return min(1.0, (step + 1) / max(1, warmup_steps), max(0.0, (steps - step) / (0.45 * steps)))


def is_block_matrix(name: str, weight: nn.Parameter) -> bool:
    """Whether Muon takes a weight: the matrices of transformer blocks. LTX-Video's tables of vectors are none."""
    return weight.ndim == 2 and "blocks." in name and name.endswith(".weight")
