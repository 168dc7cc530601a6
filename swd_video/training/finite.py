"""Numbers that are not finite: found before an optimizer can spread them, and named."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from swd_video.models.fsdp import full_tensor

_CURE = "Lower train.lr, raise train.lr_warmup_steps, or set train.mixed_precision to null."
_CURE_AT_FIRST = (
    "Nothing has been trained yet: the teacher's weights, or a loss from outside, give no numbers, or "
    "train.mixed_precision is to be null."
)


class NonFiniteError(RuntimeError):
    """A loss or a gradient is nan or infinite; the network that it would have moved was not changed."""


def check_losses(step: int, stage_index: int, losses: Mapping[str, float]) -> None:
    """Refuse losses that are not finite.

    Raises:
        NonFiniteError: naming step, stage and loss.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"step {step}, stage {stage_index + 1}: the loss {name} is {value}; stopped before the optimizer. "
                f"{_CURE if step else _CURE_AT_FIRST}"
            )


def check_gradient(step: int, whose: str, norm: float, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse a gradient that is not finite.

    Raises:
        NonFiniteError: naming step, network and the first parameter concerned.
    """
    if math.isfinite(norm):
        return
    gradients = ((name, weight.grad) for name, weight in parameters.items() if weight.grad is not None)
    bad = (name for name, gradient in gradients if not full_tensor(gradient).isfinite().all())
    where = next((f", first in {name}" for name in bad), "")
    raise NonFiniteError(
        f"step {step}: the norm of the {whose}'s gradient is {norm}{where}; stopped before the optimizer. "
        f"{_CURE if step else _CURE_AT_FIRST}"
    )


def check_weights(step: int, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse weights that an optimizer moved beyond all numbers, which no loss has seen yet.

    Args:
        step: whose optimizer it was.
        weights: by the file that they are to be written to, and by name.

    Raises:
        NonFiniteError: naming step, file and the first weight concerned.
    """
    for file, named in weights.items():
        for name, weight in named.items():
            # The sum is finite unless a number is not, or all of them together are too large: then look at each.
            whole = full_tensor(weight.detach())
            if not math.isfinite(whole.sum(dtype=torch.float64)) and not whole.isfinite().all():
                raise NonFiniteError(
                    f"step {step}: the optimizer moved {name} ({file}) beyond all numbers; none of it is kept. {_CURE}"
                )
