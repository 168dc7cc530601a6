"""Adversarial losses on a discriminator's logits, in two forms, each with a loss of its own for the student.

Source: hinge, Geometric GAN (arXiv 1705.02894), which many successors of DMD2 take; softplus, the non-saturating
logistic loss of Generative Adversarial Networks (arXiv 1406.2661, section 3), in the published code of Improved
Distribution Matching Distillation (arXiv 2405.14867) and of Scale-wise Distillation (arXiv 2503.16397).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus


def hinge_discriminator_loss(
    target_logits: Float[Tensor, "..."], predicted_logits: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Real clips should score above 1 and the student's below -1. It is 2 for a blind discriminator."""
    return relu(1 - target_logits).mean() + relu(1 + predicted_logits).mean()


def hinge_student_loss(predicted_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The student's clips should score high, however high they score already."""
    return -predicted_logits.mean()


def softplus_discriminator_loss(
    target_logits: Float[Tensor, "..."], predicted_logits: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Cross entropy of logits that tell real clips from the student's. It is 2 log 2 for a blind discriminator."""
    return softplus(-target_logits).mean() + softplus(predicted_logits).mean()


def softplus_student_loss(predicted_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The student's clips should be taken for real; the pull fades where they are."""
    return softplus(-predicted_logits).mean()


ADVERSARIAL_LOSSES = {
    "hinge": (hinge_discriminator_loss, hinge_student_loss),
    "softplus": (softplus_discriminator_loss, softplus_student_loss),
}
"""By name: the discriminator's loss and the student's."""
