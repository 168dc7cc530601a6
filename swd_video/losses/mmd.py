"""Maximum mean discrepancy between two clips' tokens, the main loss of scale-wise distillation.

Both losses compare a clip with *its own* target and average over clips afterwards: averaging over the
batch first is worse (Source: Scale-wise Distillation of Diffusion Models, arXiv 2503.16397, Table 6).
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def linear_mmd(
    pred_tokens: Float[Tensor, "batch pred_tokens channels"],
    target_tokens: Float[Tensor, "batch target_tokens channels"],
) -> Float[Tensor, ""]:
    """Squared distance between the mean tokens of prediction and target, averaged over clips.

    With the kernel `k(a, b) = a . b` the squared MMD of two token sets is exactly the squared distance of
    their means, so this costs one mean instead of a tokens x tokens matrix.

    Args:
        pred_tokens: features of the noised prediction, any unit.
        target_tokens: features of the target, noised with the same noise and sigma. The two may
            hold different numbers of tokens.

    Returns:
        A scalar >= 0, summed over channels, computed in float32 (float64 for float64 tokens).

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), Eq. 2.
    """
    difference = _mean_difference(pred_tokens, target_tokens)
    return difference.square().sum(dim=-1).mean()


def pseudo_huber_mmd(
    pred_tokens: Float[Tensor, "batch pred_tokens channels"],
    target_tokens: Float[Tensor, "batch target_tokens channels"],
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
        A scalar >= 0, averaged over channels and clips, computed in float32 (float64 for float64 tokens).

    Source: the "linear" kernel of the code published with Scale-wise Distillation (arXiv 2503.16397); the
    paper's own Eq. 2 is `linear_mmd`.
    """
    assert c > 0, f"c must be above 0, got {c}"
    difference = _mean_difference(pred_tokens, target_tokens)
    return ((difference.square() + c**2).sqrt() - c).mean()


def frame_sets(
    tokens: Float[Tensor, "batch tokens channels"], frames: int
) -> Float[Tensor, "batch_frames frame_tokens channels"]:
    """One token set for each frame of each clip, instead of one for each clip.

    A set of a whole clip knows which things are seen, but not when; sets of single frames also know where in time.

    Args:
        tokens: in the order frames, height, width, as video transformers keep them.
        frames: token frames of a clip (latent frames over the patch's length in time).
    """
    return rearrange(tokens, "b (f p) c -> (b f) p c", f=frames)


def _mean_difference(pred_tokens: Tensor, target_tokens: Tensor) -> Tensor:
    dtype = torch.promote_types(pred_tokens.dtype, torch.float32)
    return pred_tokens.to(dtype).mean(dim=1) - target_tokens.to(dtype).mean(dim=1)
