"""Flow matching: the straight line between data and noise.

`noisy_latents = (1 - sigma) * x0 + sigma * noise` and `velocity = noise - x0`, so that
`x0 = noisy_latents - sigma * velocity`. `sigma` is a number, or one number for each clip of the batch,
and is used in at least float32; results have the promoted dtype of the two tensors that went in.

Source: Flow Matching for Generative Modeling (arXiv 2210.02747), with data at sigma 0 and noise at sigma 1.
"""

import math
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


def sigma_per_clip(sigma: Sigma, noisy_latents: Float[Tensor, "batch *clip"]) -> Float[Tensor, " batch"]:
    """One float32 noise level for each clip, on the device of the latents."""
    levels = torch.as_tensor(sigma, dtype=torch.float32, device=noisy_latents.device).reshape(-1)
    return levels.expand(noisy_latents.shape[0])


def velocity_target(x0: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a flow-matching model is trained to predict: `noise - x0`, the same at every sigma."""
    return noise - x0


def shift_sigma(sigma: _S, shift: float) -> _S:
    """Spend more of a noise schedule at high noise: `shift * sigma / (1 + (shift - 1) * sigma)`.

    Keeps 0 and 1 in place; `shift` 1 changes nothing, and larger grids want larger shifts.

    Source: Scaling Rectified Flow Transformers (arXiv 2403.03206), Eq. 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def convert_sigma(sigma: _S, from_shift: float, to_shift: float) -> _S:
    """The noise level of a model with another shift that stands where `sigma` stands in its own model's schedule.

    A model with shift `s` passes the even steps `u` of its schedule at `sigma = s u / (1 + (s - 1) u)`. In terms of the
    ratio of noise to data, `sigma / (1 - sigma) = s u / (1 - u)`: a shift multiplies the ratio by itself and nothing
    more. At the same `u`, two models' ratios are therefore as their shifts, and

        sigma' / (1 - sigma') = (s' / s) sigma / (1 - sigma),

    which is `sigma` shifted by `s' / s`. With `to_shift` 1 it is `u`, the share of the schedule that is still to come.

    Source: Scaling Rectified Flow Transformers (arXiv 2403.03206), Eq. 23, solved for another shift at equal `t_n`.
    """
    return shift_sigma(sigma, to_shift / from_shift)


def fit_shift(sigmas: Float[Tensor, " levels"]) -> float:
    """The shift whose even steps come closest, in mean square, to the noise levels that a model was trained on.

    For models with a noise schedule of another form, such as CogVideoX's table of 1000.

    Args:
        sigmas: rising, the last one 1 or near it.
    """
    levels = sigmas.double().cpu()
    steps = torch.arange(1, len(levels) + 1, dtype=torch.float64, device="cpu") / len(levels)
    low, high = -5.0, 5.0  # logarithms; the error falls to its least and rises after it
    for _ in range(60):
        third = (high - low) / 3
        left, right = (
            (shift_sigma(steps, math.exp(at)) - levels).square().sum() for at in (low + third, high - third)
        )
        low, high = (low, high - third) if left < right else (low + third, high)
    return math.exp((low + high) / 2)


def _broadcast(sigma: Sigma, like: Tensor) -> Tensor:
    # float32 even for half-precision latents: 1 - sigma in bfloat16 keeps only two or three digits.
    dtype = torch.promote_types(like.dtype, torch.float32)
    level = torch.as_tensor(sigma, dtype=dtype, device=like.device)
    return level.reshape(-1, *([1] * (like.ndim - 1)))


def _narrow(result: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return result.to(torch.promote_types(left.dtype, right.dtype))
