"""What every objective is: a section of the config, the loss that it becomes, and what learns beside the student."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from accelerate import Accelerator
from jaxtyping import Float
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from swd_video.config import ConfigError, Section
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.spec import ModelSpec
from swd_video.objectives.networks import Networks
from swd_video.objectives.passes import Pass
from swd_video.student.student_file import PixelNetwork


@dataclass(frozen=True)
class ClipPair:
    """A micro-batch as losses see it: the student's clips and the true ones, on one grid.

    Attributes:
        predicted_x0: the student's clean latents.
        target_x0: the true latents.
        prompt_embeds: of both.
        paired: whether prediction and target are the same clips; else only their prompts are.
    """

    predicted_x0: Float[Tensor, "batch channels frames height width"]
    target_x0: Float[Tensor, "batch channels frames height width"]
    prompt_embeds: Float[Tensor, "batch text_length text_dim"]
    paired: bool = True

    def detached(self) -> "ClipPair":
        """The same without the way back to the student."""
        return replace(self, predicted_x0=self.predicted_x0.detach())


class Learner(ABC):
    """A network that learns beside the student, by AdamW, after each of its steps.

    Attributes:
        name: for checkpoints, logs and draws.
        lr: learning rate.
        updates: how often after each step; on the step's clips first, then on clips that the student makes anew.
        parameters: what is trained, by name; after `start`.
        optimizer: trains it; likewise.
    """

    name: str
    lr: float
    updates: int = 1
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    def start(self, networks: Networks) -> None:
        """Get ready to learn, once weights are where they stay: dividing them among processes replaces them."""
        self.parameters = dict(self.find_parameters(networks))
        # No momentum: what the student does changes from step to step.
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.lr, betas=(0.0, 0.99), weight_decay=0.0
        )

    @abstractmethod
    def find_parameters(self, networks: Networks) -> Mapping[str, nn.Parameter]:
        """What is trained, by name."""

    @abstractmethod
    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """What it is trained on; gradients reach its parameters only."""


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """What the student is asked to get right: networks are called here, `losses/` only compares what they give.

    Attributes:
        weight: its factor in what the student is trained on.
        learner: what learns beside the student for its sake, if anything.
        wants_prediction: whether it looks at the student's clips; else it runs the student itself.
        stages: those that it has a say in, from 1; None is all. Others pass it and its learner by.
    """

    wants_prediction: ClassVar[bool] = True
    weight: float = 1.0
    learner: Learner | None = None
    stages: tuple[int, ...] | None = None

    def has_say(self, stage_index: int) -> bool:
        """Whether it is part of the loss at a stage, by its index."""
        return has_say(self.stages, stage_index)

    @abstractmethod
    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """The mean loss of some clips; gradients reach the student."""


class ObjectiveConfig(Section, ABC):
    """A section that turns into an objective. One from outside of the package has `kind: str`, which names it."""

    weight: float = Field(default=1.0, gt=0)
    """Factor in the loss."""
    stages: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Stages in which it has a say, from 1; null is all."""

    def has_say(self, stage_index: int) -> bool:
        """Whether it is part of the loss at a stage, by its index."""
        return has_say(self.stages, stage_index)

    @property
    def texts(self) -> Mapping[str, tuple[str, ...]]:
        """Texts that it needs embedded, by their key in this section: text encoders are gone when it is built."""
        return {}

    @property
    def num_updates(self) -> int:
        """How often something learns beside the student after each of its steps."""
        return 1

    @property
    def needs_pairs(self) -> bool:
        """Whether it can only compare a clip with its own target, and gives 0 where `ClipPair.paired` is false."""
        return True

    @property
    def decodes(self) -> Literal["vae", "decoder"] | None:
        """What it decodes clips by, if it does: the VAE, or the decoder in its place."""
        return None

    @property
    def trained_through(self) -> tuple[PixelNetwork, ...]:
        """Networks of pixels that it looks through, for the student's record: they must not judge it."""
        return ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of weights that it reads, for the record of the run."""
        return ()

    @abstractmethod
    def build(
        self,
        key: str,
        networks: Networks,
        schedule: ScaleSchedule,
        prompts: Mapping[str, Tensor],
        accelerator: Accelerator,
        seed: int,
    ) -> Objective:
        """Make the objective.

        Args:
            key: of this section, for messages.
            networks: teacher and student, where they train; may get additions.
            schedule: the stages.
            prompts: what `texts` asked for, embedded.
            accelerator: knows the device, and who speaks.
            seed: of the run.

        Raises:
            ValueError: for what cannot work with this teacher or schedule, naming the key.
        """

    @abstractmethod
    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """What it runs for clips on a grid, what learns beside the student included."""


class NoiseLevels(Section):
    """Noise levels from which clips draw theirs evenly."""

    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """The lowest."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """The highest."""

    @model_validator(mode="after")
    def _check_range(self) -> "NoiseLevels":
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min} is above sigma_max {self.sigma_max}; lower sigma_min"
            )
        return self

    def share_between(self, low: float, high: float) -> float:
        """The share of draws that lie between two noise levels, 0 to 1."""
        width = self.sigma_max - self.sigma_min
        if not width:
            return float(low <= self.sigma_min <= high)
        return max(0.0, min(high, self.sigma_max) - max(low, self.sigma_min)) / width

    def noised(
        self, clips: Float[Tensor, "batch *clip"], draws: SampleDraws
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch *clip"]]:
        """Draw (sigma, noise), one sigma for each clip."""
        noise = draws.normal_like(clips)
        share = draws.uniform().to(clips.device)
        return self.sigma_min + (self.sigma_max - self.sigma_min) * share, noise


def learners_of(objectives: Mapping[str, Objective]) -> list[Learner]:
    """What learns beside the student; objectives by the keys of their sections.

    Raises:
        ConfigError: if two have the same name, by which checkpoints and logs know them.
    """
    owners: dict[str, str] = {}
    learners = [(key, one.learner) for key, one in objectives.items() if one.learner is not None]
    for key, learner in learners:
        if (other := owners.setdefault(learner.name, key)) != key:
            raise ConfigError(
                f"{key}: trains a network called {learner.name!r} beside the student, and so does {other}; give the "
                "Learner of one another name."
            )
    return [learner for _, learner in learners]


def has_say(stages: tuple[int, ...] | None, stage_index: int) -> bool:
    """Whether a stage is among those named; None names all."""
    return stages is None or stage_index + 1 in stages


Blocks = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(lambda n: (n,) if type(n) is int else n)]
"""Blocks of a network, from 0: one, or a list of them."""


def known_blocks(key: str, blocks: tuple[int, ...] | None, owner: str, num_blocks: int) -> tuple[int, ...]:
    """The blocks that a section names; the middle one where it names none.

    Raises:
        ConfigError: if there is no such block.
    """
    known = (num_blocks // 2,) if blocks is None else blocks
    if max(known) >= num_blocks:
        raise ConfigError(f"{key}: {max(known)} does not exist; the {owner} has blocks 0 to {num_blocks - 1}")
    return known
