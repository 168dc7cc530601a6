"""Every key of a distillation config, with its default, its limits and what it means.

`load.py` turns YAML into these classes. They are frozen and refuse keys they do not know.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from swd_video.config import Section, load_config_as
from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.load_options import LoadOptions
from swd_video.objectives.sections import LossConfig
from swd_video.training.train_section import FullTrainConfig, LoraTrainConfig


class DataConfig(Section):
    """Where training clips come from."""

    manifest: str | None = None
    """JSON lines of path, caption, start and end. Encoded into `cache` first where that is not complete."""
    cache: str
    """Folder of latents on every grid of the schedule. Relative paths start at the working directory."""
    extra_grids: tuple[str, ...] = ()
    """Grids to encode besides the schedule's, as "3x8x8", so that runs on other schedules share the cache."""
    encode_batch_size: int = Field(default=4, ge=1)
    """Clips encoded at once."""

    @field_validator("extra_grids")
    @classmethod
    def _check_grids(cls, grids: tuple[str, ...]) -> tuple[str, ...]:
        for grid in grids:
            LatentSize.parse(grid)
        return grids


class LoadConfig(LoadOptions):
    """How the teacher is loaded, to encode clips and to train."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the teacher's parts, best the one it was trained in: float16 for CogVideoX-2b, bfloat16 for most.
    What trains is float32 whatever they are."""


class StageConfig(Section):
    """One evaluation of the student."""

    sigma: float = Field(gt=0, le=1)
    """Noise level; the first stage has 1."""
    frames: int = Field(ge=1)
    """Latent frames."""
    height: int = Field(ge=1)
    """Latent height."""
    width: int = Field(ge=1)
    """Latent width."""


class AdaptConfig(Section):
    """What `swd-video adapt` trains a teacher on: flow matching, on every grid of the schedule."""

    sigma_shift: float = Field(default=1.0, gt=0)
    """Noise levels are even draws `u`, shifted: `s u / (1 + (s - 1) u)`; above 1 noisier ones come more often."""
    empty_prompts: float = Field(default=0.1, ge=0, le=1)
    """For so many of the clips the prompt is empty, so that the teacher keeps what guidance leads away from."""


class UpsamplerConfig(Section):
    """A network that takes clips from a stage's grid to the next, in place of bicubic resizing."""

    file: str | None = None
    """Where it lies, ending in .safetensors, for several runs to share: trained first where there is none, and used
    again by runs that would train the same; a file that was trained otherwise is refused. Null keeps it in the run's
    folder."""
    width: int = Field(default=48, ge=8, multiple_of=8)
    """Channels inside."""
    depth: int = Field(default=1, ge=0)
    """Residual blocks on the smaller grid, and again on the larger one."""
    steps: int = Field(default=2000, ge=1)
    """Training steps."""
    batch_size: int = Field(default=32, ge=1)
    """Clips in a step."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate, which falls to 0 along a cosine."""
    seed: int = Field(default=0, ge=0)
    """Of its first weights and of the clips in each step. Not the run's, so that runs with several seeds share it."""


class DistillConfig(Section):
    """A whole distillation: teacher, clips, schedule, loss and training."""

    model: str = "pocket-wan"
    """The teacher: a shipped name or a diffusers folder."""
    architecture: str | None = None
    """A model of the same shape, which `swd-video plan` counts where `model` is a folder that is not made yet."""
    seed: int = Field(default=0, ge=0)
    """Every draw of the run follows from it."""
    data: DataConfig
    load: LoadConfig = LoadConfig()
    schedule: tuple[StageConfig, ...]
    """Stages in order, in latents."""
    positions: Literal["native", "rescaled"] = "native"
    """`rescaled` gives short stages temporal positions over the whole range of the last one (arXiv 2503.09566)."""
    upsampler: UpsamplerConfig | None = None
    """What takes clips from grid to grid; null resizes latents bicubically, as the paper does."""
    loss: LossConfig = LossConfig()
    adapt: AdaptConfig = AdaptConfig()
    """Of `swd-video adapt` only, which takes the same file and no `loss`."""
    train: Annotated[FullTrainConfig | LoraTrainConfig, Field(discriminator="kind")]

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        _to_schedule(stages)
        return stages

    @model_validator(mode="after")
    def _check_stage_weights(self) -> "DistillConfig":
        weights = self.train.stage_weights
        if weights is not None and len(weights) != len(self.schedule):
            raise ValueError(
                f"train.stage_weights has {len(weights)} numbers for {len(self.schedule)} stages; "
                "give one for each"
            )
        return self

    @model_validator(mode="after")
    def _check_group(self) -> "DistillConfig":
        group, train = self.loss.mmd.group, self.train
        if train.batch_size % (group * train.stages_per_step):
            raise ValueError(
                f"train.batch_size: {train.batch_size} clips are not a whole number of loss.mmd.group {group} x "
                f"train.stages_per_step {train.stages_per_step}; make it a multiple"
            )
        return self

    @model_validator(mode="after")
    def _check_backward_simulation(self) -> "DistillConfig":
        if self.train.backward_simulation and self.loss.compares_clip_by_clip:
            raise ValueError(
                f"train.backward_simulation: {self.train.backward_simulation} of the clips have no pair, and no loss "
                "here does without; set it to 0, or add loss.dmd, loss.gan or a comparison that joins clips"
            )
        return self

    def scale_schedule(self) -> ScaleSchedule:
        """The stages as the validated object that everything else uses."""
        return _to_schedule(self.schedule)


def _to_schedule(stages: tuple[StageConfig, ...]) -> ScaleSchedule:
    return ScaleSchedule.from_dict([stage.model_dump() for stage in stages])


def load_config(path: str | os.PathLike[str], overrides: Mapping[str, str] | None = None) -> DistillConfig:
    """Read the config of a distillation; see `load_config_as`."""
    return load_config_as(DistillConfig, path, overrides)
