"""Every key of a distillation config, with its default, its limits and what it means.

`load.py` turns YAML into these classes. They are frozen and refuse keys they do not know.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule


class Section(BaseModel):
    """A part of a config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


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


class FitConfig(Section):
    """How a model is fitted into memory and run; what diffusers offers."""

    attention: Literal["auto", "native", "xformers", "flash", "sage"] = "auto"
    """`auto` is xformers on CUDA where it really runs, else torch's own (`native`)."""
    cpu_offload: Literal["model", "sequential"] | None = None
    """`model` keeps on the device only the network that is running, `sequential` only the layer; null all."""
    vae_tiling: bool = False
    """Encode and decode in overlapping tiles: less memory; pixels change a little."""
    vae_slicing: bool = False
    """Encode and decode clip by clip."""
    float8_weights: bool = False
    """Keep the transformer's weights in float8 and widen each layer while it runs."""


class LoadConfig(FitConfig):
    """How the teacher is loaded, to encode clips and to train."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the teacher's parts. What trains is float32 whatever they are."""


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


class MmdConfig(Section):
    """Maximum mean discrepancy on the frozen teacher's features (arXiv 2503.16397, section 4.2)."""

    kernel: Literal["linear", "pseudo_huber"] = "linear"
    """`linear` is the paper's Eq. 2, `pseudo_huber` what its public code computes under that name."""
    tokens: Literal["clip", "frame"] = "clip"
    """What makes a set: all tokens of a `clip`, as in the paper, or those of one latent `frame`."""
    block: int | None = Field(default=None, ge=0)
    """Transformer block, from 0, whose tokens are compared; null is the middle one."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which prediction and target are compared."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which prediction and target are compared."""

    @model_validator(mode="after")
    def _check_range(self) -> "MmdConfig":
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min} is above sigma_max {self.sigma_max}; lower sigma_min"
            )
        return self


class LossConfig(Section):
    """What the student is trained on."""

    mmd: MmdConfig = MmdConfig()


class AdamWConfig(Section):
    """AdamW for everything."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)


class MuonConfig(Section):
    """Muon (orthogonalised momentum) for the matrices of transformer blocks, AdamW for everything else."""

    kind: Literal["muon"] = "muon"
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    adamw_lr: float | None = Field(default=None, gt=0)
    """Learning rate of what Muon does not take; null is `train.lr`."""
    adjust_lr: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """How a matrix's shape scales its rate; `match_rms_adamw` makes rates tuned for AdamW fit."""


class TrainConfig(Section):
    """What full and LoRA training share."""

    steps: int = Field(default=3000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Clips in one forward pass of one process; the batch of a step is this x `grad_accum` x processes."""
    grad_accum: int = Field(default=1, ge=1)
    """Forward and backward passes of one step. Each draws a stage of its own."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate."""
    lr_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0 to `lr`; constant afterwards."""
    optimizer: Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")] = AdamWConfig()
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
    log_every: int = Field(default=10, ge=1)
    """Steps between TensorBoard entries."""

    @model_validator(mode="after")
    def _check_samples(self) -> "TrainConfig":
        if self.sample_every and not self.sample_prompts:
            raise ValueError(
                "sample_every is set but sample_prompts is empty; name prompts or set sample_every to 0"
            )
        return self


class FullTrainConfig(TrainConfig):
    """Train a copy of all the teacher's weights."""

    kind: Literal["full"] = "full"


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
    """The teacher: a shipped name or a diffusers folder."""
    seed: int = Field(default=0, ge=0)
    """Every draw of the run follows from it."""
    data: DataConfig
    load: LoadConfig = LoadConfig()
    schedule: tuple[StageConfig, ...]
    """Stages in order, in latents."""
    positions: Literal["native", "rescaled"] = "native"
    """`rescaled` gives short stages temporal positions over the whole range of the last one (arXiv 2503.09566)."""
    loss: LossConfig = LossConfig()
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

    def scale_schedule(self) -> ScaleSchedule:
        """The stages as the validated object that everything else uses."""
        return _to_schedule(self.schedule)


def _to_schedule(stages: tuple[StageConfig, ...]) -> ScaleSchedule:
    return ScaleSchedule.from_dict([stage.model_dump() for stage in stages])
