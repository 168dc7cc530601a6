"""Maximum mean discrepancy on the features of frozen networks, the main objective of scale-wise distillation.

Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.2 and Eq. 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate import Accelerator
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import ScaleSchedule
from swd_video.losses.token_sets import clip_points, frame_sets, joined_sets, motion_sets, tube_sets
from swd_video.models.spec import ModelSpec
from swd_video.objectives.encoders import (
    AnyEncoder,
    Comparison,
    Encoder,
    EncoderConfig,
    TeacherEncoderConfig,
    TokenGrid,
    WindowConfig,
    check_noise,
    depth_of,
    encoder_passes,
)
from swd_video.objectives.kernels import AnyKernel, LinearConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import (
    Blocks,
    ClipPair,
    NoiseLevels,
    Objective,
    ObjectiveConfig,
    known_blocks,
)
from swd_video.objectives.passes import Pass
from swd_video.student.student_file import PixelNetwork


class MmdTermConfig(NoiseLevels):
    """One comparison of sets of tokens."""

    encoder: AnyEncoder = TeacherEncoderConfig()
    """The frozen network whose tokens are compared."""
    kernel: AnyKernel = LinearConfig()
    """How they are compared: `linear` and `pseudo_huber` compare mean tokens, `rbf` and `rational_quadratic` all pairs
    of tokens."""
    tokens: Literal["clip", "frame", "tube", "motion", "change"] = "clip"
    """What makes a set: all tokens of a `clip`, as in the paper, or those of one latent `frame`, or of one space-time
    `tube`; or, for each pair of consecutive frames, their differences (`motion`), or these without sign (`change`)."""
    tubes: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    """For `tokens: tube`: into how many tubes frames, height and width are cut."""
    join: Literal["none", "tokens", "means"] = "none"
    """With `loss.group` clips to a prompt: `none` compares each clip with its own target, `tokens` all clips of a
    prompt joined with all their targets, and `means` does so with one point for each clip's set, its mean token."""
    block: Blocks | None = Field(default=None, min_length=1)
    """Block of the encoder, from 0, whose tokens are compared, or a list of them; null is the middle one."""
    block_weights: tuple[PositiveFloat, ...] | None = None
    """Weight of each listed block; null gives all 1."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which prediction and target are compared."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which prediction and target are compared."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of this comparison in the loss; 0 leaves it out."""

    @model_validator(mode="after")
    def _check_noise(self) -> "MmdTermConfig":
        check_noise(self.encoder, self)
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

    @property
    def view(self) -> tuple[EncoderConfig, float, float]:
        """Terms of the same view share one pass through their encoder."""
        return self.encoder, self.sigma_min, self.sigma_max

    def sets(
        self, tokens: Float[Tensor, "batch tokens channels"], grid: TokenGrid, group: int
    ) -> Float[Tensor, "sets set_tokens channels"]:
        """The sets of tokens that are compared.

        Args:
            tokens: after a block, of whole clips.
            grid: tokens of a clip along frames, height and width.
            group: clips of a prompt, which may be joined.
        """
        sets = tokens
        if self.tokens == "frame":
            sets = frame_sets(tokens, grid[0])
        elif self.tokens == "tube":
            sets = tube_sets(tokens, grid, self.tubes)
        elif self.tokens != "clip":
            sets = motion_sets(tokens, grid[0])
            sets = sets.abs() if self.tokens == "change" else sets
        if self.join == "none":
            return sets
        join = joined_sets if self.join == "tokens" else clip_points
        return join(sets, group, len(sets) // len(tokens))

    def check(self, grid: TokenGrid) -> None:
        """Refuse a stage's grid that has too few tokens.

        Raises:
            ValueError: naming the key.
        """
        if self.tokens in ("motion", "change") and grid[0] < 2:
            raise ValueError(
                f"tokens {self.tokens}: needs 2 frames of tokens, got {grid[0]}; use another or longer stages"
            )
        if self.tokens == "tube" and any(parts > size for parts, size in zip(self.tubes, grid, strict=True)):
            raise ValueError(
                f"tubes: {self.tubes} are more than the {grid} tokens along each axis; take fewer"
            )
        if self.kernel.estimator != "biased" and self.join == "none":
            clip = torch.empty(1, grid[0] * grid[1] * grid[2], 1)
            if self.sets(clip, grid, 1).shape[1] < 2:
                raise ValueError(
                    f"kernel.estimator {self.kernel.estimator}: needs sets of 2 tokens; use biased"
                )


class MmdConfig(ObjectiveConfig):
    """What `loss` says of the MMD: `loss.mmd`, `loss.group` and `loss.window`."""

    terms: tuple[MmdTermConfig, ...]
    group: int
    window: WindowConfig

    @property
    def counted(self) -> dict[int, MmdTermConfig]:
        """The comparisons that have a weight, by their place in the list."""
        return {index: term for index, term in enumerate(self.terms) if term.weight > 0}

    @property
    def needs_pairs(self) -> bool:
        """Unless a comparison joins the clips of a prompt."""
        return all(term.join == "none" for term in self.counted.values())

    @property
    def decodes(self) -> Literal["vae", "decoder"] | None:
        """For encoders of pixels."""
        sees_pixels = any(term.encoder.sees_pixels for term in self.counted.values())
        return self.window.through if sees_pixels else None

    @property
    def trained_through(self) -> tuple[PixelNetwork, ...]:
        """Each encoder of pixels once."""
        records = [term.encoder.record for term in self.counted.values()]
        return tuple(dict.fromkeys(record for record in records if record is not None))

    def build(
        self,
        key: str,
        networks: Networks,
        schedule: ScaleSchedule,
        prompts: Mapping[str, Tensor],
        accelerator: Accelerator,
        seed: int,
    ) -> "MmdObjective":
        """Load encoders, and look whether each stage has the tokens that its comparisons need."""
        terms: list[MmdTermConfig] = []
        encoders: dict[EncoderConfig, Encoder] = {}
        for index, term in self.counted.items():
            here = f"{key}[{index}]"
            if term.encoder not in encoders:
                encoders[term.encoder] = term.encoder.build(
                    f"{here}.encoder", networks.model.spec, self.window, accelerator.device
                )
            encoder = encoders[term.encoder]
            blocks = known_blocks(f"{here}.block", term.block, encoder.name, encoder.num_blocks)
            for grid in schedule.distinct_grids:
                for block in blocks:
                    try:
                        term.check(encoder.grid(grid, block))
                    except ValueError as error:
                        where = f"latent grid {grid}, block {block} of {encoder.name}"
                        raise ConfigError(f"{here}.{error} ({where})") from None
            terms.append(term.model_copy(update={"block": blocks}))
        return MmdObjective(terms, encoders, self.group, self.window)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """Each view runs its encoder on the target, and on the prediction with its way back."""
        depths: dict[tuple[EncoderConfig, float, float], int | None] = {}
        for term in self.counted.values():
            depth = depth_of(term.encoder, term.block, spec)
            deepest = depths.get(term.view, 0)
            depths[term.view] = None if depth is None or deepest is None else max(depth, deepest)
        views = [(encoder, depth) for (encoder, *_), depth in depths.items()]
        return encoder_passes(views, self.window, grid, num_others=1)


@dataclass(frozen=True)
class MmdObjective(Objective):
    """Match how frozen networks see prediction and target.

    Attributes:
        terms: comparisons, all with their blocks named; the loss is their weighted sum.
        encoders: made of each term's section.
        group: each so many consecutive clips of a batch have the same prompt.
        window: what networks of pixels are shown.
    """

    terms: Sequence[MmdTermConfig]
    encoders: Mapping[EncoderConfig, Encoder]
    group: int = 1
    window: WindowConfig = field(default_factory=WindowConfig)

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach the student's clips only.

        Clips that are no pairs are not compared one by one, which would pull each towards another at random: where no
        term joins clips they give 0. Prediction and target get the same noise, sigma and window, clips that are
        compared with each other the same sigma.
        """
        comparison = Comparison(networks, clips, draws, self.group, self.window)
        views: dict[tuple[EncoderConfig, float, float], list[MmdTermConfig]] = {}
        for term in self.terms:
            if clips.paired or term.join != "none":
                views.setdefault(term.view, []).append(term)
        loss = clips.predicted_x0.new_zeros(())
        for (encoder, *sigmas), terms in views.items():
            blocks = sorted({block for term in terms for block in term.block or ()})
            predicted, target = self.encoders[encoder].tokens(comparison, (sigmas[0], sigmas[1]), blocks)
            for term in terms:
                assert term.block is not None, "a term's blocks are named before it is used"
                weights = term.block_weights or [1.0] * len(term.block)
                for block, weight in zip(term.block, weights, strict=True):
                    value = self._compare(term, predicted[block], target[block], draws)
                    loss = loss + term.weight * weight * value
        return loss

    def _compare(self, term: MmdTermConfig, predicted: Tensor, target: Tensor, draws: SampleDraws) -> Tensor:
        frames, height, width = predicted.shape[1:4]
        predicted_sets, target_sets = (
            term.sets(tokens.flatten(1, 3), (frames, height, width), self.group)
            for tokens in (predicted, target)
        )
        # A draw of a joined set is a clip.
        tokens_per_draw = predicted_sets.shape[1] // self.group if term.join == "tokens" else 1
        # `linear_mmd` or another function of losses/mmd.py: see the sections in kernels.py.
        return term.kernel.compare(predicted_sets, target_sets, tokens_per_draw, draws.shared)
