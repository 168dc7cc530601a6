"""What the student is asked to get right: networks are called here, `losses/` only compares what they give."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.flow import add_noise
from swd_video.losses.mmd import frame_sets, linear_mmd, pseudo_huber_mmd
from swd_video.training.roles import Roles

KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": linear_mmd,
    "pseudo_huber": pseudo_huber_mmd,
}


@dataclass(frozen=True)
class MmdObjective:
    """Match the frozen teacher's view of prediction and target, both noised alike.

    Attributes:
        kernel: a key of `KERNELS`.
        block: the teacher's transformer block, from 0, whose tokens are compared.
        sigma_min: lowest noise level of the comparison.
        sigma_max: highest noise level of the comparison.
        per_frame: compare the tokens of each frame with those of the same frame, not of the whole clip.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.2 and Eq. 2.
    """

    kernel: str
    block: int
    sigma_min: float = 0.0
    sigma_max: float = 0.6
    per_frame: bool = False

    def __call__(
        self,
        roles: Roles,
        predicted_x0: Float[Tensor, "batch channels frames height width"],
        target_x0: Float[Tensor, "batch channels frames height width"],
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach `predicted_x0` only.

        Args:
            roles: who the teacher is.
            predicted_x0: the student's clean latents.
            target_x0: the true latents on the same grid.
            prompt_embeds: the clips' prompts.
            generator: on the CPU; gives noise and sigma, the same for prediction and target.
        """
        device = predicted_x0.device
        noise = torch.randn(target_x0.shape, generator=generator).to(device)
        share = torch.rand(len(target_x0), generator=generator).to(device)
        sigma = self.sigma_min + (self.sigma_max - self.sigma_min) * share
        with torch.no_grad():
            target_tokens = roles.teacher_features(
                add_noise(target_x0, noise, sigma), sigma, prompt_embeds, self.block
            )
        predicted_tokens = roles.teacher_features(
            add_noise(predicted_x0, noise, sigma), sigma, prompt_embeds, self.block
        )
        if self.per_frame:
            frames = target_x0.shape[2] // roles.model.spec.compression.patch[0]
            predicted_tokens = frame_sets(predicted_tokens, frames)
            target_tokens = frame_sets(target_tokens, frames)
        return KERNELS[self.kernel](predicted_tokens, target_tokens)
