"""Flow matching on clips: how a teacher learns to generate on every grid of a schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from accelerate import Accelerator
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from swd_video.core.flow import add_noise, velocity_target
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.spec import ModelSpec
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair, Objective, ObjectiveConfig
from swd_video.objectives.passes import Pass


class AdaptConfig(ObjectiveConfig):
    """What `swd-video adapt` trains a teacher on: flow matching, on every grid of the schedule."""

    stages: None = None
    """A teacher learns the grids of all."""
    sigma_shift: float = Field(default=1.0, gt=0)
    """Noise levels are even draws `u`, shifted: `s u / (1 + (s - 1) u)`; above 1 noisier ones come more often."""
    empty_prompts: float = Field(default=0.1, ge=0, le=1)
    """For so many of the clips the prompt is empty, so that the teacher keeps what guidance leads away from."""

    @property
    def texts(self) -> Mapping[str, tuple[str, ...]]:
        """The empty prompt."""
        return {"empty_prompts": ("",)}

    def build(
        self,
        key: str,
        networks: Networks,
        schedule: ScaleSchedule,
        prompts: Mapping[str, Tensor],
        accelerator: Accelerator,
        seed: int,
    ) -> "FlowMatching":
        """Nothing has to be made."""
        return FlowMatching(self, prompts["empty_prompts"], weight=self.weight)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """The network that learns runs once."""
        return [Pass("student", grid, gradient="weights")]


@dataclass(frozen=True)
class FlowMatching(Objective):
    """Say which way the noise lies in noised clips.

    Attributes:
        config: says how noisy, and how often the prompt is empty.
        empty_embeds: embedding of the empty prompt.

    Source: Flow Matching for Generative Modeling (arXiv 2210.02747); the shift is that of Stable Diffusion 3
    (arXiv 2403.03206), Eq. 23.
    """

    wants_prediction: ClassVar[bool] = False
    config: AdaptConfig
    empty_embeds: Float[Tensor, "1 text_length text_dim"]

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Mean squared error of the velocity, on the true clips."""
        x0, shift = clips.target_x0, self.config.sigma_shift
        noise, even = draws.normal_like(x0), draws.uniform().to(x0.device)
        sigma = shift * even / (1 + (shift - 1) * even)
        is_empty = (draws.uniform() < self.config.empty_prompts).to(x0.device).view(-1, 1, 1)
        prompt_embeds = torch.where(is_empty, self.empty_embeds.to(clips.prompt_embeds), clips.prompt_embeds)
        velocity = networks.model.predict_velocity(
            add_noise(x0, noise, sigma), sigma, prompt_embeds, transformer=networks.student_forward
        )
        return (velocity.float() - velocity_target(x0, noise)).square().mean()
