"""Every key of a distillation config, with its default, its limits and what it means.

Sections that belong to one part lie beside it: those of `loss` and `adapt` in `objectives/`, that of `data` in `data/`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from swd_video.config import Section, load_config_as
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler
from swd_video.data.sections import DataConfig
from swd_video.models.sections import LoadOptions, WeakerSelfConfig
from swd_video.objectives.flow_matching import AdaptConfig
from swd_video.objectives.loss import LossConfig
from swd_video.training.optimizers import AdamWConfig, AnyOptimizer


class LoadConfig(LoadOptions):
    """How the model is loaded, to encode clips and to train."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the teacher's parts, best the one it was trained in: float16 for CogVideoX-2b, bfloat16 for most.
    What trains is float32 whatever they are."""


class LocalAttentionConfig(Section):
    """In which windows of space and time the tokens of a stage attend to each other; for Wan and LTX."""

    frames: int = Field(ge=1)
    """Latent frames of a window; of a grid that it does not divide the last windows are smaller."""
    height: int = Field(ge=1)
    """Latents of its height."""
    width: int = Field(ge=1)
    """Latents of its width."""
    shift: bool = True
    """Every second block that has windows has them half a window further, so that neighbours hear of each other."""
    global_every: int | None = Field(default=None, ge=1)
    """The last of so many blocks has no windows; null: all blocks have them."""


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
    attention: LocalAttentionConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Local attention of the student's blocks; null: every token attends to all others. Text is always whole."""


class UpsamplerConfig(Section):
    """A network that takes clips from a stage's grid to the next, in place of bicubic resizing."""

    kind: ClassVar[str] = "upsampler"

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

    def untrained(self, channels: int) -> LatentUpsampler:
        """One of this shape, for latents of so many channels: what it costs is counted on it."""
        return LatentUpsampler(channels, self.width, self.depth)


class TeacherSamplesConfig(Section):
    """How the teacher makes the clips that stand beside the student's samples."""

    steps: int = Field(default=50, ge=1)
    """Sampling steps; with guidance each runs the transformer twice."""
    guidance_scale: float | None = Field(default=None, ge=1)
    """`uncond + w (cond - uncond)`, so that 1 is off; null is what the teacher's own pipeline does."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    weaker: WeakerSelfConfig | None = None
    """A weaker version of the teacher that guidance leads away from as well; null is none."""
    shift: float | None = Field(default=None, gt=0)
    """Euler steps over noise levels shifted by this much; null samples with the model's own scheduler."""


class TrainConfig(Section):
    """What full and LoRA training share."""

    steps: int = Field(default=3000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Clips in an optimizer step, of all processes together, however many there are."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """The most clips that one process passes through the networks at once; gradients of several passes are added up.
    Null takes all that fall to it. Changes memory and time, and losses only in their last bits."""
    stages_per_step: int = Field(default=1, ge=1)
    """Stages drawn for a step; each trains on an equal part of the batch."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate."""
    lr_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0 to `lr`; constant afterwards."""
    optimizer: AnyOptimizer = AdamWConfig()
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; null leaves them."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged weights that samples and the student use; 0 uses the weights as they are."""
    mixed_precision: Literal["bf16", "auto"] | None = None
    """`bf16` runs the networks under bfloat16 autocast; weights and optimizer stay float32. `auto` is `bf16` where
    the device multiplies in bfloat16, else null; the saved config says which."""
    gradient_checkpointing: bool = False
    """Keep only the tokens between transformer blocks, and compute each block again in the backward pass: the same
    student in a fraction of the memory, for about a third more work."""
    backward_simulation: float = Field(default=0.0, ge=0, le=1)
    """This share of the stages drawn, after the first, start from what the student made itself of the stages
    before, as in sampling, instead of from true clips (backward simulation, arXiv 2405.14867). Its clip is then
    another than the true one, so comparisons clip by clip leave these stages out."""
    stage_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """How often each stage is drawn, relative to the others; null draws all alike."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the latest checkpoints stay on disk."""
    sample_every: int = Field(default=0, ge=0)
    """Steps between sample clips; 0 makes none."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample clips."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Sample clips of each prompt; diversity is measured from two on."""
    teacher_samples: TeacherSamplesConfig | None = None
    """Let the teacher make the same prompts once, beside which the samples are shown and measured; null measures them
    against training clips."""
    collapse_share: float = Field(default=0.5, ge=0, lt=1)
    """A warning is printed where diversity, motion or saturation of the samples falls below this share of the
    reference's, or the saturation rises above one over it; 0 never warns."""
    log_every: int = Field(default=10, ge=1)
    """Steps between TensorBoard entries."""

    @property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """Texts that samples need embedded, by their key in this section."""
        if not self.sample_every:
            return {}
        teacher = self.teacher_samples
        negative = {} if teacher is None else {"teacher_samples.negative_prompt": (teacher.negative_prompt,)}
        return {"sample_prompts": self.sample_prompts, **negative}

    @model_validator(mode="after")
    def _check_samples(self) -> "TrainConfig":
        if self.sample_every and not self.sample_prompts:
            raise ValueError(
                "sample_every is set but sample_prompts is empty; name prompts or set sample_every to 0"
            )
        if self.teacher_samples is not None and not self.sample_every:
            raise ValueError(
                "teacher_samples are shown beside samples, but sample_every is 0, which makes none; set sample_every "
                "or leave teacher_samples out"
            )
        return self


class FullTrainConfig(TrainConfig):
    """Train a copy of all the teacher's weights."""

    kind: Literal["full"] = "full"
    start: str | None = None
    """A student of this kind to go on from, a shipped name or a folder, whose upsampler is kept; null begins with the
    teacher's weights."""
    kept_share: float = Field(default=1.0, gt=0, le=1)
    """With `start`: how far the student's weights go from those it began with to those that it reached
    (arXiv 1809.00219, 3.4). A finished run writes its student anew for another."""

    @model_validator(mode="after")
    def _check_kept_share(self) -> "FullTrainConfig":
        if self.kept_share < 1 and self.start is None:
            raise ValueError(
                f"kept_share: {self.kept_share} goes with start; name a student there, or leave it out"
            )
        return self


class LoraTrainConfig(TrainConfig):
    """Train low-rank additions to the teacher's weights; one copy of the weights serves both."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=128, ge=1)
    """Rank of the additions. Their scale is 1 (alpha equals rank), so that every tool loads them alike."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Ends of the names of the linear layers that get one; null: attention and MLP of the model's blocks."""


class DistillConfig(Section):
    """A whole distillation: teacher, clips, schedule, loss and training."""

    model: str = "pocket-wan"
    """The teacher: a shipped name, a diffusers folder of any family, or a hub name."""
    architecture: str | None = None
    """A model of the same shape, which `swd-video plan` counts where `model` is a folder that is not made yet."""
    seed: int = Field(default=0, ge=0)
    """Every draw of the run follows from it."""
    data: DataConfig
    load: LoadConfig = LoadConfig()
    schedule: tuple[StageConfig, ...]
    """Stages in order, in latents."""
    positions: Literal["native", "rescaled"] = "native"
    """`rescaled` gives short stages temporal positions over the whole range of the last one (arXiv 2503.09566);
    not for CogVideoX-2b."""
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
    def _check_parts_fit(self) -> "DistillConfig":
        group, train, weights = self.loss.group, self.train, self.train.stage_weights
        if weights is not None and len(weights) != len(self.schedule):
            raise ValueError(
                f"train.stage_weights has {len(weights)} numbers for {len(self.schedule)} stages; "
                "give one for each"
            )
        if train.batch_size % (group * train.stages_per_step):
            raise ValueError(
                f"train.batch_size: {train.batch_size} clips are not a whole number of loss.group {group} x "
                f"train.stages_per_step {train.stages_per_step}; make it a multiple"
            )
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> "DistillConfig":
        count, share = len(self.schedule), self.train.backward_simulation
        for name, part in self.loss.objectives.items():
            if part.stages is not None and max(part.stages) > count:
                raise ValueError(
                    f"loss.{name}.stages: {max(part.stages)} does not exist; the schedule has stages 1 to {count}"
                )
        for index in range(count):
            asked = [part for part in self.loss.objectives.values() if part.has_say(index)]
            if not asked:
                raise ValueError(
                    f"loss: nothing has a say in stage {index + 1}; name it in the stages of a part, or leave them out"
                )
            if share and index > 0 and all(part.needs_pairs for part in asked):
                raise ValueError(
                    f"train.backward_simulation: {share} of the clips of stage {index + 1} have no pair, and no loss "
                    "there does without; set it to 0, or add loss.dmd, loss.gan or a comparison that joins clips"
                )
        return self

    @model_validator(mode="after")
    def _check_decoder(self) -> "DistillConfig":
        sections = self.loss.objectives.values()
        if any(section.decodes == "decoder" for section in sections) and not isinstance(
            self.load.decoder, Path
        ):
            raise ValueError(
                "load.decoder: names no file, but clips are decoded for a loss by it (window.through: decoder); name "
                "one, or decode through the VAE"
            )
        return self

    def scale_schedule(self) -> ScaleSchedule:
        """The stages as the validated object that everything else uses."""
        return _to_schedule(self.schedule)


def _to_schedule(stages: tuple[StageConfig, ...]) -> ScaleSchedule:
    return ScaleSchedule.from_dict([stage.model_dump() for stage in stages])


def load_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> DistillConfig:
    """Read the config of a distillation; see `load_config_as`."""
    return load_config_as(DistillConfig, path, overrides)
