"""Random features: a kernel's MMD at the price of a mean, exact on average."""

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.losses.kernels import Rbf, centered


def random_features(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
    kernel: Rbf,
    count: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "sets pred_tokens features"], Float[Tensor, "sets target_tokens features"]]:
    """Maps tokens to points whose dot product is the kernel on average over draws.

    `linear_mmd` of these points is therefore the kernel's MMD on average, whichever the estimator, and takes time
    linear in the tokens. Its error falls as one over the square root of `count`.

    Args:
        pred_tokens: of the prediction.
        target_tokens: of the target, likewise.
        kernel: Gaussian; its bandwidths share the draws evenly.
        count: frequencies to draw, a multiple of the number of bandwidths; each gives a cosine and a sine.
        generator: on the CPU.

    Source: Random Features for Large-Scale Kernel Machines (Rahimi and Recht, NeurIPS 2007), Algorithm 1, in its
    form with cosine and sine.
    """
    num_bandwidths = len(kernel.bandwidths)
    assert count % num_bandwidths == 0, f"{count} features for {num_bandwidths} bandwidths"
    with torch.autocast(pred_tokens.device.type, enabled=False):
        pred, target = centered(pred_tokens, target_tokens)
        directions = torch.randn(pred.shape[-1], count, generator=generator, dtype=torch.float64).to(pred)
        # exp(-p d^2) is the mean of cos(w . d) over w with variance 2 p.
        scales = (2 * kernel.precisions(pred, target)).sqrt().repeat(1, count // num_bandwidths)[:, None, :]
        return _points(pred, directions, scales), _points(target, directions, scales)


def _points(tokens: Tensor, directions: Tensor, scales: Tensor) -> Tensor:
    angles = tokens @ directions * scales
    return torch.cat([angles.cos(), angles.sin()], dim=-1) / directions.shape[-1] ** 0.5
