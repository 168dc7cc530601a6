"""Which parameter is moved by which optimizer."""

from collections.abc import Mapping

import torch
from torch import nn

from swd_video.training.train_section import MuonConfig, TrainConfig


def build_optimizers(
    parameters: Mapping[str, nn.Parameter], train: TrainConfig
) -> list[torch.optim.Optimizer]:
    """One AdamW; or Muon for the matrices of transformer blocks and AdamW for the rest.

    Args:
        parameters: trainable parameters by name.
        train: the config's `train` section.

    Returns:
        Optimizers that between them hold every parameter. "initial_lr" in their groups is the rate without warmup.

    Source: Muon is Scalable for LLM Training (arXiv 2502.16982), for `match_rms_adamw`.
    """
    config = train.optimizer
    # One fused kernel for all parameters: on a CPU the plain loop costs more than a small model's step.
    if not isinstance(config, MuonConfig):
        adamw = torch.optim.AdamW(
            parameters.values(), lr=train.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        return _with_initial_lr([adamw])
    matrices = [weight for name, weight in parameters.items() if _is_block_matrix(name, weight)]
    rest = [weight for name, weight in parameters.items() if not _is_block_matrix(name, weight)]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=train.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                adjust_lr_fn=config.adjust_lr,
            )
        )
    if rest:
        rate = config.adamw_lr or train.lr
        optimizers.append(torch.optim.AdamW(rest, lr=rate, weight_decay=config.weight_decay, fused=True))
    return _with_initial_lr(optimizers)


def _is_block_matrix(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim == 2 and "blocks." in name


def _with_initial_lr(optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
