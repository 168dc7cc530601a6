"""Adversarial losses on a discriminator's logits.

Source: the hinge form of Geometric GAN (arXiv 1705.02894), as in Improved Distribution Matching Distillation
(arXiv 2405.14867) and its successors.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu


def discriminator_loss(
    target_logits: Float[Tensor, "..."], predicted_logits: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Hinge: real clips should score above 1 and the student's below -1. It is 2 for a blind discriminator."""
    return relu(1 - target_logits).mean() + relu(1 + predicted_logits).mean()


def generator_loss(predicted_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The student's clips should score high."""
    return -predicted_logits.mean()
