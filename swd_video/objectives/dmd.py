"""Distribution matching distillation: a critic follows the student, and the student leaves it for the teacher."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.flow import add_noise, velocity_target, x0_from_velocity
from swd_video.core.randomness import SampleDraws
from swd_video.losses.dmd import distribution_matching_loss
from swd_video.objectives.learners import ClipPair, Learner
from swd_video.objectives.networks import Networks


@dataclass(frozen=True)
class NoiseRange:
    """Noise levels from which clips draw theirs evenly.

    Attributes:
        sigma_min: the lowest.
        sigma_max: the highest.
    """

    sigma_min: float
    sigma_max: float

    def noised(
        self, clips: Float[Tensor, "batch *clip"], draws: SampleDraws
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch *clip"]]:
        """Draw (sigma, noise), one sigma for each clip."""
        noise = draws.normal_like(clips)
        share = draws.uniform().to(clips.device)
        return self.sigma_min + (self.sigma_max - self.sigma_min) * share, noise


class Critic(Learner):
    """Low-rank additions to the teacher, trained by flow matching on the student's clips, whose score they give.

    Source: One-step Diffusion with Distribution Matching Distillation (arXiv 2311.18828), section 3.2.
    """

    def __init__(
        self,
        networks: Networks,
        rank: int,
        targets: tuple[str, ...],
        lr: float,
        noise: NoiseRange,
        updates: int = 1,
    ) -> None:
        super().__init__("critic", networks.add_critic(rank, targets), lr, updates)
        self._noise = noise

    def renew(self, networks: Networks) -> None:
        """Look for the additions again, before the first step: dividing weights among processes replaces them."""
        self._train(networks.critic_parameters())

    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Mean squared error of the velocity that leads to the student's clips."""
        x0 = clips.predicted_x0
        sigma, noise = self._noise.noised(x0, draws)
        with networks.critic() as network:
            velocity = networks.model.predict_velocity(
                add_noise(x0, noise, sigma), sigma, clips.prompt_embeds, transformer=network
            )
        return (velocity.float() - velocity_target(x0, noise)).square().mean()


@dataclass(frozen=True)
class DmdObjective:
    """Move the student's clips along the difference of the teacher's score and the critic's.

    Attributes:
        noise: levels at which scores are compared.
        guidance_scale: of the teacher; 1 is none.
        negative_embeds: embedding of what the teacher is guided away from.
        data_share: for so many of the clips the teacher's score is that of the noised *true* clip, which pulls the
            student back to what the data has and it lacks (Source: Data-Forcing Distillation, arXiv 2606.18478).

    Source: Improved Distribution Matching Distillation (arXiv 2405.14867).
    """

    noise: NoiseRange
    guidance_scale: float
    negative_embeds: Float[Tensor, "1 text_length text_dim"]
    data_share: float = 0.0

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach the student's clips only."""
        x0 = clips.predicted_x0.detach().float()
        sigma, noise = self.noise.noised(x0, draws)
        from_data = draws.uniform().to(x0.device) < self.data_share
        seen = torch.where(from_data.view(-1, 1, 1, 1, 1), clips.target_x0, x0)
        with torch.no_grad():
            teacher_x0 = self._teacher_x0(networks, add_noise(seen, noise, sigma), sigma, clips.prompt_embeds)
            noisy = add_noise(x0, noise, sigma)
            with networks.critic() as network:
                velocity = networks.model.predict_velocity(
                    noisy, sigma, clips.prompt_embeds, transformer=network
                )
            critic_x0 = x0_from_velocity(noisy, velocity, sigma)
        return distribution_matching_loss(clips.predicted_x0, teacher_x0, critic_x0)

    def _teacher_x0(self, networks: Networks, noisy: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        with networks.teacher() as network:
            velocity = networks.model.predict_velocity(noisy, sigma, prompt_embeds, transformer=network)
            if self.guidance_scale != 1:
                negative = self.negative_embeds.to(prompt_embeds).expand_as(prompt_embeds)
                away = networks.model.predict_velocity(noisy, sigma, negative, transformer=network)
                velocity = away + self.guidance_scale * (velocity - away)
        return x0_from_velocity(noisy, velocity, sigma)
