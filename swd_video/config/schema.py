"""Every key of a distillation config, with its default, its limits and what it means.

`load.py` turns YAML into these classes. They are frozen and refuse keys they do not know.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from swd_video.config.encoders import (
    LATENT_ENCODERS,
    CriticEncoderConfig,
    EncoderConfig,
    TeacherEncoderConfig,
    WindowConfig,
)
from swd_video.config.section import Section
from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule


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


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


def _check_sigmas(lowest: float, highest: float) -> None:
    if lowest > highest:
        raise ValueError(f"sigma_min {lowest} is above sigma_max {highest}; lower sigma_min")


class MmdTermConfig(Section):
    """One comparison of sets of tokens."""

    encoder: EncoderConfig = TeacherEncoderConfig()
    """The frozen network whose tokens are compared."""
    kernel: Literal["linear", "pseudo_huber", "rbf", "rational_quadratic"] = "linear"
    """`linear` is the paper's Eq. 2, `pseudo_huber` what its public code computes under that name; both compare mean
    tokens. `rbf` and `rational_quadratic` compare all pairs of tokens."""
    tokens: Literal["clip", "frame", "tube", "motion", "change"] = "clip"
    """What makes a set: all tokens of a `clip`, as in the paper, or those of one latent `frame`, or of one space-time
    `tube`; or, for each pair of consecutive frames, their differences (`motion`), or these without sign (`change`)."""
    tubes: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    """For `tokens: tube`: into how many tubes frames, height and width are cut."""
    join: Literal["none", "tokens", "means"] = "none"
    """With `group` clips to a prompt: `none` compares each clip with its own target, `tokens` all clips of a prompt
    joined with all their targets, and `means` does so with one point for each clip's set, its mean token."""
    estimator: Literal["biased", "unbiased", "paired"] = "biased"
    """`biased` takes all pairs, `unbiased` leaves out those of a draw with itself, `paired` also those with its own
    target. A draw is a token or, where clips are joined, a clip."""
    bandwidths: tuple[PositiveFloat, ...] = Field(default=(1.0,), min_length=1)
    """Of `rbf` and `rational_quadratic`; the kernel is the mean over them."""
    bandwidth_unit: Literal["median", "absolute"] = "median"
    """`median`: bandwidths count in median distances of a comparison's tokens; `absolute`: in the features' unit."""
    alpha: float = Field(default=1.0, gt=0)
    """Of `rational_quadratic`: the smaller, the heavier its tails."""
    random_features: int = Field(default=0, ge=0)
    """Frequencies that stand in for the exact `rbf`, whose cost they make linear in tokens; 0 computes it exactly."""
    block: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_as_tuple)] | None = Field(
        default=None, min_length=1
    )
    """Block of the encoder, from 0, whose tokens are compared, or a list of them; null is the middle one."""
    block_weights: tuple[PositiveFloat, ...] | None = None
    """Weight of each listed block; null gives all 1."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which prediction and target are compared."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which prediction and target are compared."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of this comparison in the loss; 0 leaves it out."""

    @property
    def is_noised(self) -> bool:
        """Whether clips are noised before they are compared."""
        return isinstance(self.encoder, LATENT_ENCODERS) and not self.encoder.clean

    @model_validator(mode="after")
    def _check_range(self) -> "MmdTermConfig":
        _check_sigmas(self.sigma_min, self.sigma_max)
        if not self.is_noised and (self.sigma_min, self.sigma_max) != (0.0, 0.6):
            raise ValueError(
                f"sigma_min and sigma_max: this encoder, {self.encoder.kind}, is shown clean clips; leave them out"
            )
        return self

    @model_validator(mode="after")
    def _check_kernel(self) -> "MmdTermConfig":
        of_pairs = self.kernel in ("rbf", "rational_quadratic")
        if not of_pairs and (self.bandwidths, self.bandwidth_unit) != ((1.0,), "median"):
            raise ValueError(f"bandwidths: {self.kernel} has none; use kernel rbf or leave them out")
        if self.alpha != 1 and self.kernel != "rational_quadratic":
            raise ValueError(f"alpha: {self.kernel} has none; use kernel rational_quadratic or leave it out")
        if self.estimator != "biased" and self.kernel == "pseudo_huber":
            raise ValueError(
                f"estimator {self.estimator}: pseudo_huber is no MMD and has none; use kernel linear"
            )
        if self.random_features and self.kernel != "rbf":
            raise ValueError(
                f"random_features: stand in for kernel rbf, not for {self.kernel}; set them to 0"
            )
        if self.random_features % len(self.bandwidths):
            raise ValueError(
                f"random_features {self.random_features} are shared by {len(self.bandwidths)} bandwidths; "
                "give a multiple"
            )
        return self

    @model_validator(mode="after")
    def _check_sets(self) -> "MmdTermConfig":
        if self.tubes != (1, 2, 2) and self.tokens != "tube":
            raise ValueError(f"tubes: tokens is {self.tokens}; set tokens to tube or leave tubes out")
        if self.block_weights is not None and len(self.block_weights) != len(self.block or ()):
            raise ValueError(
                f"block_weights has {len(self.block_weights)} numbers for {len(self.block or ())} listed blocks; "
                "give one for each"
            )
        return self


def _inherit(first: dict[str, Any], term: Any) -> Any:
    """A term with what it takes over from the first, before either is checked."""
    if not isinstance(term, dict):
        return term
    keys = ["sigma_min", "sigma_max"]
    if "encoder" not in term:
        keys += ["encoder"] if "block" in term else ["encoder", "block", "block_weights"]
    elif not _sees_noise(term["encoder"]):
        keys = []
    return {key: first[key] for key in keys if key in first} | term


def _sees_noise(encoder: Any) -> bool:
    if isinstance(encoder, dict):
        return encoder.get("kind") in ("teacher", "critic") and not encoder.get("clean", False)
    return isinstance(encoder, LATENT_ENCODERS) and not encoder.clean


class MmdConfig(MmdTermConfig):
    """Maximum mean discrepancy on the features of frozen networks (arXiv 2503.16397, section 4.2)."""

    group: int = Field(default=1, ge=1)
    """Clips of the same caption that a micro-batch holds for each of its prompts."""
    window: WindowConfig = WindowConfig()
    """What encoders of pixels are shown."""
    extra_terms: tuple[MmdTermConfig, ...] = ()
    """Further comparisons, added to this one. Encoder, blocks and noise levels that they do not name are those of this
    one; a term with an encoder of its own has blocks of its own."""

    @model_validator(mode="before")
    @classmethod
    def _share_features(cls, values: Any) -> Any:
        extra = values.get("extra_terms") if isinstance(values, dict) else None
        if not isinstance(extra, (list, tuple)):
            return values
        return values | {"extra_terms": [_inherit(values, term) for term in extra]}

    @model_validator(mode="after")
    def _check_group(self) -> "MmdConfig":
        joins = [term.join != "none" for term in self.terms]
        if self.group > 1 and not any(joins):
            raise ValueError(
                f"group {self.group}, but no comparison joins clips; set join to tokens or means, or group to 1"
            )
        if self.group == 1 and any(joins):
            raise ValueError("join: needs several clips to a prompt; set group to 2 or more, or join to none")
        return self

    @model_validator(mode="after")
    def _check_window(self) -> "MmdConfig":
        of_latents = all(isinstance(term.encoder, LATENT_ENCODERS) for term in self.terms)
        if of_latents and self.window != WindowConfig():
            raise ValueError("window: no encoder here sees pixels; name one, or leave window out")
        return self

    @property
    def terms(self) -> tuple[MmdTermConfig, ...]:
        """All comparisons that count, this one first."""
        return tuple(term for term in (self, *self.extra_terms) if term.weight > 0)


class DmdConfig(Section):
    """Distribution matching (arXiv 2405.14867): a critic, low-rank additions to the teacher, follows the student."""

    weight: float = Field(default=1.0, gt=0)
    """Factor in the loss."""
    guidance_scale: float = Field(default=5.0, ge=1)
    """Of the teacher whose distribution is matched; 1 is no guidance."""
    negative_prompt: str = ""
    """What guidance leads away from."""
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
    critic_targets: tuple[str, ...] | None = None
    """Ends of the names of the linear layers that get one; null is the family's attention and MLP."""
    critic_lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the critic."""

    @model_validator(mode="after")
    def _check_range(self) -> "DmdConfig":
        _check_sigmas(self.sigma_min, self.sigma_max)
        return self


class GanConfig(Section):
    """A discriminator: heads on the frozen teacher's features."""

    weight: float = Field(default=0.01, gt=0)
    """Factor in the loss."""
    head: Literal["mlp", "conv3d"] = "conv3d"
    """`mlp` judges a clip by its mean token, `conv3d` every place in it."""
    hidden: int = Field(default=64, ge=1)
    """Channels of the heads."""
    block: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_as_tuple)] | None = Field(
        default=None, min_length=1
    )
    """Transformer block, from 0, that gets a head, or a list of them; null is the middle one."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the heads."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which clips are judged."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which clips are judged."""

    @model_validator(mode="after")
    def _check_range(self) -> "GanConfig":
        _check_sigmas(self.sigma_min, self.sigma_max)
        return self


class LossConfig(Section):
    """What the student is trained on: the weighted sum of its parts."""

    mmd: MmdConfig = MmdConfig()
    dmd: DmdConfig | None = None
    """Left out if null."""
    gan: GanConfig | None = None
    """Left out if null."""

    @model_validator(mode="after")
    def _check_parts(self) -> "LossConfig":
        if not self.mmd.terms and self.dmd is None and self.gan is None:
            raise ValueError(
                "nothing to train on: every weight of mmd is 0, and there is no dmd and no gan; add one"
            )
        if self.dmd is None and any(isinstance(term.encoder, CriticEncoderConfig) for term in self.mmd.terms):
            raise ValueError(
                "mmd.encoder is critic, but nothing trains one; add loss.dmd, or compare the teacher's blocks"
            )
        return self


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
    guidance_scale: float = Field(default=5.0, ge=1)
    """`uncond + w (cond - uncond)`, so that 1 is off."""
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
    own_inputs: float = Field(default=0.0, ge=0, le=1)
    """This share of the stages drawn, after the first, start from what the student made itself of the stages
    before, as in sampling, instead of from true clips (backward simulation, arXiv 2405.14867). Its clip is then
    another than the true one it is compared with: meant for `loss.dmd` and `loss.gan`."""
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


class AdaptConfig(Section):
    """What `swd-video adapt` trains a teacher on: flow matching, on every grid of the schedule."""

    sigma_shift: float = Field(default=1.0, gt=0)
    """Noise levels are even draws `u`, shifted: `s u / (1 + (s - 1) u)`; above 1 noisier ones come more often."""
    empty_prompts: float = Field(default=0.1, ge=0, le=1)
    """For so many of the clips the prompt is empty, so that the teacher keeps what guidance leads away from."""


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

    def scale_schedule(self) -> ScaleSchedule:
        """The stages as the validated object that everything else uses."""
        return _to_schedule(self.schedule)


def _to_schedule(stages: tuple[StageConfig, ...]) -> ScaleSchedule:
    return ScaleSchedule.from_dict([stage.model_dump() for stage in stages])
