"""Keys of a config's `loss` section, with their defaults and limits."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from swd_video.config import Section
from swd_video.core.grid import LatentSize, window_size
from swd_video.models.spec import ModelSpec
from swd_video.objectives.encoder_sections import (
    LATENT_ENCODERS,
    CriticEncoderConfig,
    EncoderConfig,
    TeacherEncoderConfig,
    WindowConfig,
)
from swd_video.objectives.passes import Pass


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

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """What it runs for clips on a grid: each encoder on the target and on the prediction."""
        middle = spec.num_blocks // 2
        depths: dict[tuple[EncoderConfig, float, float], int | None] = {}
        for term in self.terms:
            # Terms that see the same clips share a pair of runs.
            view = (term.encoder, term.sigma_min, term.sigma_max)
            unnamed = middle + 1 if isinstance(term.encoder, LATENT_ENCODERS) else None
            depth = max(term.block) + 1 if term.block else unnamed
            depths[view] = None if depth is None else max(depth, depths.get(view) or 0)
        window = window_size(grid, self.window.frames, self.window.crop)
        passes: list[Pass] = []
        if not all(isinstance(encoder, LATENT_ENCODERS) for encoder, *_ in depths):
            passes += _seen_twice("vae_decoder", window, None, recomputed=True)
        for (encoder, *_), depth in depths.items():
            if isinstance(encoder, LATENT_ENCODERS):
                passes += _seen_twice(encoder.kind, grid, depth)
            else:
                passes += _seen_twice(encoder, window, depth, recomputed=True)
        return passes


def _seen_twice(
    network: str | Section, grid: LatentSize, depth: int | None, recomputed: bool = False
) -> list[Pass]:
    """The target, and the prediction with its way back; recomputed: once more on that way."""
    return [
        Pass(network, grid, 2.0 if recomputed else 1.0, depth=depth),
        Pass(network, grid, gradient="input", depth=depth),
    ]


class DmdConfig(Section):
    """Distribution matching (arXiv 2405.14867): a critic, low-rank additions to the teacher, follows the student."""

    weight: float = Field(default=1.0, gt=0)
    """Factor in the loss."""
    guidance_scale: float | None = Field(default=None, ge=1)
    """Of the teacher whose distribution is matched; 1 is no guidance, null what the teacher's own pipeline does."""
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
    critic_updates: int = Field(default=1, ge=1)
    """Times that the critic learns for each step of the student: on the step's clips, then each time on clips of other
    prompts that the student makes anew. 5 in the published code of DMD2 (10 for Stable Diffusion 1.5) and of SwD."""

    @model_validator(mode="after")
    def _check_range(self) -> "DmdConfig":
        _check_sigmas(self.sigma_min, self.sigma_max)
        return self

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """What it runs for clips on a grid: teacher and critic judge, then the critic learns."""
        guided = (self.guidance_scale or spec.guidance_scale) != 1
        return [
            Pass("teacher", grid, 2.0 if guided else 1.0),
            Pass("critic", grid),
            Pass("critic", grid, self.critic_updates, gradient="weights"),
        ]

    @model_validator(mode="after")
    def _check_guidance(self) -> "DmdConfig":
        if self.negative_prompt and self.guidance_scale == 1:
            raise ValueError(
                "negative_prompt: guidance_scale 1 is no guidance, so nothing leads away from it; raise guidance_scale "
                "or leave negative_prompt out"
            )
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
    objective: Literal["hinge", "softplus"] = "hinge"
    """`softplus` is the non-saturating logistic loss of DMD2's and SwD's published code."""
    updates: int = Field(default=1, ge=1)
    """As `loss.dmd.critic_updates`, for the heads; in that code they learn along with the critic."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which clips are judged."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which clips are judged."""

    @model_validator(mode="after")
    def _check_range(self) -> "GanConfig":
        _check_sigmas(self.sigma_min, self.sigma_max)
        return self

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """What it runs for clips on a grid: the heads judge the student's, then learn from those and the true ones."""
        depth = max(self.block or (spec.num_blocks // 2,)) + 1
        learning = 2.0 * self.updates
        return [
            Pass("teacher", grid, gradient="input", depth=depth),
            Pass("heads", grid, gradient="input"),
            Pass("teacher", grid, learning, depth=depth),
            Pass("heads", grid, learning, gradient="weights"),
        ]


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

    @property
    def compares_clip_by_clip(self) -> bool:
        """Whether every part asks for each clip's own target."""
        return self.dmd is None and self.gan is None and all(term.join == "none" for term in self.mmd.terms)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> dict[str, list[Pass]]:
        """What each objective runs for clips on a grid, what learns beside the student included, by its name."""
        parts = {"mmd": self.mmd, "dmd": self.dmd, "gan": self.gan}
        return {name: part.passes(spec, grid) for name, part in parts.items() if part is not None}

    @property
    def num_updates(self) -> int:
        """Most times that something beside the student learns in a step; for all but the first it makes new clips."""
        return max(
            1,
            self.dmd.critic_updates if self.dmd is not None else 1,
            self.gan.updates if self.gan is not None else 1,
        )
