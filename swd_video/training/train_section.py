"""Keys of a config's `train` section, with their defaults and limits."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swd_video.config import Section


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


class TeacherSamplesConfig(Section):
    """How the teacher makes the clips that stand beside the student's samples."""

    steps: int = Field(default=50, ge=1)
    """Sampling steps; with guidance each runs the transformer twice."""
    guidance_scale: float | None = Field(default=None, ge=1)
    """`uncond + w (cond - uncond)`, so that 1 is off; null is what the teacher's own pipeline does."""
    negative_prompt: str = ""
    """What guidance leads away from."""
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


class LoraTrainConfig(TrainConfig):
    """Train low-rank additions to the teacher's weights; one copy of the weights serves both."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=128, ge=1)
    """Rank of the additions. Their scale is 1 (alpha equals rank), so that every tool loads them alike."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Ends of the names of the linear layers that get one; null: attention and MLP of the model's blocks."""
