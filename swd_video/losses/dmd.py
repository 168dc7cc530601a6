"""Distribution matching distillation: the pull of a teacher's score against that of a critic."""

from jaxtyping import Float
from torch import Tensor


def distribution_matching_loss(
    predicted_x0: Float[Tensor, "batch *clip"],
    teacher_x0: Float[Tensor, "batch *clip"],
    critic_x0: Float[Tensor, "batch *clip"],
) -> Float[Tensor, ""]:
    """A loss whose gradient moves the student's clips from where the critic sees them to where the teacher does.

    The difference of two denoised clips is that of two scores, up to a factor of sigma; for every clip it is divided
    by the mean distance between the student's clip and the teacher's, so that all noise levels pull alike. The value
    is half the mean square of that pull: it says how far apart teacher and critic are, not how good the student is.

    Args:
        predicted_x0: the student's clean latents; gradients reach them and nothing else.
        teacher_x0: the teacher's guess at the clean latents behind noised ones.
        critic_x0: the critic's guess, behind the noised latents of `predicted_x0`.

    Source: One-step Diffusion with Distribution Matching Distillation (arXiv 2311.18828), Eq. 7 and 8.
    """
    predicted = predicted_x0.float()
    axes = tuple(range(1, predicted.ndim))
    teacher, critic = teacher_x0.detach().float(), critic_x0.detach().float()
    distance = (predicted.detach() - teacher).abs().mean(dim=axes, keepdim=True)
    pull = (critic - teacher) / distance.clamp_min(1e-6)
    return 0.5 * (predicted - (predicted.detach() - pull)).square().mean()
