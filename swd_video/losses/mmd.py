"""Maximum mean discrepancy between two sets of tokens, the main loss of scale-wise distillation.

All losses compare each set with *its own* target set and average over sets afterwards: averaging over the
batch first is worse (Source: Scale-wise Distillation of Diffusion Models, arXiv 2503.16397, Table 6). What a set is,
a clip, a frame or all clips of a prompt, is decided before (`token_sets.py`).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.losses.kernel_sums import TILE, KernelSums, PairWeights
from swd_video.losses.kernels import RadialKernel, centered

Estimator = Literal["biased", "unbiased", "paired"]
"""What is done about pairs that are no two draws.

`biased` takes all pairs. It is never negative, but on average too large by the spread of both sets over their number
of draws, so a small set also rewards a prediction that varies less. `unbiased` leaves out the pairs of a draw with
itself. `paired` leaves out those of a predicted draw with its own target as well, for predictions that were made from
their targets or noised alike. The two may be negative.

Source: A Kernel Two-Sample Test (Gretton et al., JMLR 13, 2012), Eqs. 5, 3 and 4.
"""


def linear_mmd(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
    estimator: Estimator = "biased",
    tokens_per_draw: int = 1,
) -> Float[Tensor, ""]:
    """Squared distance between the mean tokens of prediction and target, averaged over sets.

    With the kernel `k(a, b) = a . b` the squared MMD of two token sets is exactly the squared distance of
    their means, so this costs one mean instead of a tokens x tokens matrix.

    Args:
        pred_tokens: features of the noised prediction, any unit.
        target_tokens: features of the target, noised with the same noise and sigma. The two may
            hold different numbers of tokens.
        estimator: see `Estimator`.
        tokens_per_draw: consecutive tokens that make one draw; for `unbiased` and `paired`.

    Returns:
        A scalar, summed over channels, computed in float32 (float64 for float64 tokens); >= 0 if biased.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), Eq. 2.
    """
    if estimator == "biased":
        return _mean_difference(pred_tokens, target_tokens).square().sum(dim=-1).mean()
    pred, target = centered(pred_tokens, target_tokens)
    pred, target = (x.unflatten(1, (-1, tokens_per_draw)).mean(dim=2) for x in (pred, target))
    weights = _pair_weights(pred.shape[1], target.shape[1], estimator, 1)
    pred_sum, target_sum = pred.sum(dim=1), target.sum(dim=1)
    inside_pred = pred_sum.square().sum(-1) - pred.square().sum((1, 2))
    inside_target = target_sum.square().sum(-1) - target.square().sum((1, 2))
    across = (pred_sum * target_sum).sum(-1)
    if estimator == "paired":
        across = across - (pred * target).sum((1, 2))
    squared = weights.pred_pred * inside_pred + weights.target_target * inside_target
    return (squared - weights.pred_target * across).mean()


def pseudo_huber_mmd(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
    c: float = 1e-3,
) -> Float[Tensor, ""]:
    """Mean over channels of `sqrt(d^2 + c^2) - c`, with `d` the difference of the mean tokens.

    Quadratic for `|d| << c` and absolute beyond it, so that the few channels in which a transformer's
    activations are hundreds of times larger than elsewhere do not drown the rest. It is not a squared MMD of
    any kernel.

    Args:
        pred_tokens: features of the noised prediction, any unit.
        target_tokens: features of the target, noised with the same noise and sigma.
        c: where the loss turns from quadratic to absolute, in the unit of the features. Above 0.

    Returns:
        A scalar >= 0, averaged over channels and sets, computed in float32 (float64 for float64 tokens).

    Source: the "linear" kernel of the code published with Scale-wise Distillation (arXiv 2503.16397); the
    paper's own Eq. 2 is `linear_mmd`.
    """
    assert c > 0, f"c must be above 0, got {c}"
    difference = _mean_difference(pred_tokens, target_tokens)
    return ((difference.square() + c**2).sqrt() - c).mean()


def kernel_mmd(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
    kernel: RadialKernel,
    estimator: Estimator = "biased",
    tokens_per_draw: int = 1,
    tile: int = TILE,
) -> Float[Tensor, ""]:
    """Squared MMD of a kernel over all pairs of tokens, averaged over sets; exact, in memory linear in the tokens.

    Args:
        pred_tokens: features of the noised prediction, any unit.
        target_tokens: features of the target, noised with the same noise and sigma. The two may
            hold different numbers of tokens.
        kernel: with its bandwidths, which count as constants.
        estimator: see `Estimator`.
        tokens_per_draw: consecutive tokens that make one draw; for `unbiased` and `paired`.
        tile: rows and columns of the kernel matrix at hand at once; changes the result by rounding only.

    Returns:
        A scalar, computed in float32 (float64 for float64 tokens); its gradient can be taken once.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), Eq. 2 and Table 6 (RBF).
    """
    weights = _pair_weights(pred_tokens.shape[1], target_tokens.shape[1], estimator, tokens_per_draw)
    with torch.autocast(pred_tokens.device.type, enabled=False):
        pred, target = centered(pred_tokens, target_tokens)
        precisions = kernel.precisions(pred, target)
        return KernelSums.apply(pred, target, precisions, kernel, weights, tile).mean()


def _pair_weights(num_pred: int, num_target: int, estimator: Estimator, tokens_per_draw: int) -> PairWeights:
    skip = 0 if estimator == "biased" else tokens_per_draw
    skip_across = tokens_per_draw if estimator == "paired" else 0
    assert not skip_across or num_pred == num_target, "paired sets hold as many tokens"
    assert (
        num_pred % tokens_per_draw == num_target % tokens_per_draw == 0 and min(num_pred, num_target) > skip
    )
    return PairWeights(
        pred_pred=1 / (num_pred * (num_pred - skip)),
        target_target=1 / (num_target * (num_target - skip)),
        pred_target=2 / (num_pred * (num_target - skip_across)),
        skip=skip,
        skip_across=skip_across,
    )


def _mean_difference(pred_tokens: Tensor, target_tokens: Tensor) -> Tensor:
    dtype = torch.promote_types(pred_tokens.dtype, torch.float32)
    return pred_tokens.to(dtype).mean(dim=1) - target_tokens.to(dtype).mean(dim=1)
