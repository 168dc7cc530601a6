"""Distribution matching distillation: a critic follows the student, and the student leaves it for the teacher.

Source: Improved Distribution Matching Distillation (arXiv 2405.14867).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from swd_video.core.flow import add_noise, velocity_target, x0_from_velocity
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws, keyed_global
from swd_video.core.schedule import ScaleSchedule
from swd_video.losses.dmd import distribution_matching_loss
from swd_video.models.guidance import Guidance, WeakerSelf
from swd_video.models.sections import WeakerSelfConfig
from swd_video.models.spec import ModelSpec
from swd_video.models.teacher_sampling import chosen_guidance
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair, Learner, NoiseLevels, Objective, ObjectiveConfig
from swd_video.objectives.passes import Pass

_WARNING = (
    "warning: loss.dmd: a teacher that was not trained on the small grids cannot make clips there, and distribution "
    "matching hands its mistakes on: trained so, students of Wan2.1 came out worse than with mmd alone "
    "(arXiv 2503.16397). `swd-video adapt` trains it on them; then set loss.dmd.scale_adapted to true."
)


class DmdConfig(ObjectiveConfig, NoiseLevels):
    """Distribution matching (arXiv 2405.14867): a critic, low-rank additions to the teacher, follows the student."""

    guidance_scale: float | None = Field(default=None, ge=1)
    """Of the teacher whose distribution is matched; 1 is no guidance, null what the teacher's own pipeline does."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    weaker: WeakerSelfConfig | None = None
    """A weaker version of the teacher that guidance leads away from as well; null is none."""
    sigma_min: float = Field(default=0.02, gt=0, lt=1)
    """Lowest noise level at which teacher and critic are compared."""
    sigma_max: float = Field(default=0.98, gt=0, le=1)
    """Highest noise level at which teacher and critic are compared."""
    data_share: float = Field(default=0.0, ge=0, le=1)
    """For so many of the clips the teacher looks at the true clip (arXiv 2606.18478), for diversity; 0.5 there."""
    scale_adapted: bool = False
    """Whether the teacher was trained on small grids as well. One that was not misleads the small stages
    (arXiv 2503.16397), and a warning says so."""
    critic_rank: int = Field(default=64, ge=1)
    """Rank of the critic's additions."""
    critic_targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Ends of the names of the linear layers that get one; null is the family's attention and MLP."""
    critic_lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the critic."""
    critic_updates: int = Field(default=1, ge=1)
    """Times that the critic learns for each step of the student: on the step's clips, then each time on clips of other
    prompts that the student makes anew. 5 in the published code of DMD2 (10 for Stable Diffusion 1.5) and of SwD."""

    @model_validator(mode="after")
    def _check_guidance(self) -> "DmdConfig":
        if self.negative_prompt and self.guidance_scale == 1:
            raise ValueError(
                "negative_prompt: guidance_scale 1 is no guidance, so nothing leads away from it; raise guidance_scale "
                "or leave negative_prompt out"
            )
        return self

    @property
    def texts(self) -> Mapping[str, tuple[str, ...]]:
        """What guidance leads away from."""
        return {"negative_prompt": (self.negative_prompt,)}

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights of the weaker version."""
        return (
            ()
            if self.weaker is None or self.weaker.transformer_file is None
            else (self.weaker.transformer_file,)
        )

    @property
    def num_updates(self) -> int:
        """The critic's."""
        return self.critic_updates

    @property
    def needs_pairs(self) -> bool:
        """Distributions are matched, not clips."""
        return False

    def build(
        self,
        key: str,
        networks: Networks,
        schedule: ScaleSchedule,
        prompts: Mapping[str, Tensor],
        accelerator: Accelerator,
        seed: int,
    ) -> "DmdObjective":
        """Add a critic."""
        spec, speaks = networks.model.spec, accelerator.is_main_process
        if not self.scale_adapted and len(schedule.distinct_grids) > 1 and speaks:
            print(_WARNING, file=sys.stderr)
        with keyed_global(seed, "critic"):
            critic = Critic(networks, self)
        guidance = chosen_guidance(
            spec, self.guidance_scale, self.negative_prompt, f"{key}.", quiet=not speaks
        )
        weaker = None if self.weaker is None else WeakerSelf(self.weaker, networks.model, f"{key}.weaker")
        guided = Guidance(guidance, prompts["negative_prompt"], weaker)
        return DmdObjective(self, guided, weight=self.weight, learner=critic)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """Teacher and critic judge, then the critic learns."""
        guided = (self.guidance_scale or spec.guidance_scale) != 1
        return [
            Pass("teacher", grid, 1 + guided),
            *self._weaker_passes(grid),
            Pass("critic", grid),
            Pass("critic", grid, self.critic_updates, gradient="weights"),
        ]

    def _weaker_passes(self, grid: LatentSize) -> list[Pass]:
        """Those of the weaker version, for the share of clips whose noise levels it leads at."""
        weaker = self.weaker
        if weaker is None or not (share := self.share_between(weaker.sigma_min, weaker.sigma_max)):
            return []
        network = "teacher" if weaker.transformer_file is None else "weaker"
        return [Pass(network, grid, share, left_out=weaker.blocks)]


class Critic(Learner):
    """Low-rank additions to the teacher, trained by flow matching on the student's clips, whose score they give.

    Source: One-step Diffusion with Distribution Matching Distillation (arXiv 2311.18828), section 3.2.
    """

    name = "critic"

    def __init__(self, networks: Networks, config: DmdConfig) -> None:
        self.lr, self.updates, self._levels = config.critic_lr, config.critic_updates, config
        networks.add_critic(config.critic_rank, config.critic_targets or networks.model.lora_targets)

    def find_parameters(self, networks: Networks) -> Mapping[str, nn.Parameter]:
        """The additions."""
        return networks.critic_parameters()

    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Mean squared error of the velocity that leads to the student's clips."""
        x0 = clips.predicted_x0
        sigma, noise = self._levels.noised(x0, draws)
        with networks.critic() as network:
            velocity = networks.model.predict_velocity(
                add_noise(x0, noise, sigma), sigma, clips.prompt_embeds, transformer=network
            )
        return (velocity.float() - velocity_target(x0, noise)).square().mean()


@dataclass(frozen=True)
class DmdObjective(Objective):
    """Move the student's clips along the difference of the teacher's score and the critic's.

    Attributes:
        config: says at which noise levels, and how often the teacher's score is that of the noised *true* clip, which
            pulls the student back to what the data has and it lacks (Source: Data-Forcing Distillation,
            arXiv 2606.18478).
        guidance: of the teacher.
    """

    config: DmdConfig
    guidance: Guidance

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach the student's clips only."""
        x0 = clips.predicted_x0.detach().float()
        sigma, noise = self.config.noised(x0, draws)
        from_data = draws.uniform().to(x0.device) < self.config.data_share
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
            velocity = self.guidance.velocity(networks.model, noisy, sigma, prompt_embeds, network)
        return x0_from_velocity(noisy, velocity, sigma)
