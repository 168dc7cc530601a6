"""Flow matching: the straight line between data and noise.

`noisy_latents = (1 - sigma) * x0 + sigma * noise` and `velocity = noise - x0`, so that
`x0 = noisy_latents - sigma * velocity`. `sigma` is a number, or one number for each clip of the batch,
and is used in at least float32; results have the promoted dtype of the two tensors that went in.

Source: Flow Matching for Generative Modeling (arXiv 2210.02747), with data at sigma 0 and noise at sigma 1.
"""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Sigma = float | int | Float[Tensor, ""] | Float[Tensor, " batch"]
_S = TypeVar("_S", float, Tensor)


def add_noise(
    x0: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], sigma: Sigma
) -> Float[Tensor, "*shape"]:
    """Move clean latents towards noise: `(1 - sigma) * x0 + sigma * noise`."""
    level = _broadcast(sigma, x0)
    return _narrow((1 - level) * x0 + level * noise, x0, noise)


def x0_from_velocity(
    noisy_latents: Float[Tensor, "*shape"], velocity: Float[Tensor, "*shape"], sigma: Sigma
) -> Float[Tensor, "*shape"]:
    """The clean latents that a predicted velocity stands for: `noisy_latents - sigma * velocity`."""
    level = _broadcast(sigma, noisy_latents)
    return _narrow(noisy_latents - level * velocity, noisy_latents, velocity)


def velocity_from_x0(
    noisy_latents: Float[Tensor, "*shape"], x0: Float[Tensor, "*shape"], sigma: Sigma
) -> Float[Tensor, "*shape"]:
    """The inverse of `x0_from_velocity`: `(noisy_latents - x0) / sigma`, for sigma above 0."""
    level = _broadcast(sigma, noisy_latents)
    return _narrow((noisy_latents - x0) / level, noisy_latents, x0)


def velocity_target(x0: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a flow-matching model is trained to predict: `noise - x0`, the same at every sigma."""
    return noise - x0


def shift_sigma(sigma: _S, shift: float) -> _S:
    """Spend more of a noise schedule at high noise: `shift * sigma / (1 + (shift - 1) * sigma)`.

    Keeps 0 and 1 in place; `shift` 1 changes nothing, and larger grids want larger shifts.

    Source: Scaling Rectified Flow Transformers (arXiv 2403.03206), Eq. 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def _broadcast(sigma: Sigma, like: Tensor) -> Tensor:
    # float32 even for half-precision latents: 1 - sigma in bfloat16 keeps only two or three digits.
    dtype = torch.promote_types(like.dtype, torch.float32)
    level = torch.as_tensor(sigma, dtype=dtype, device=like.device)
    return level.reshape(-1, *([1] * (like.ndim - 1)))


def _narrow(result: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return result.to(torch.promote_types(left.dtype, right.dtype))
