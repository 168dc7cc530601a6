"""What the student is asked to get right: networks are called here, `losses/` only compares what they give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.randomness import SampleDraws
from swd_video.losses.kernels import RationalQuadratic, Rbf
from swd_video.losses.mmd import kernel_mmd, linear_mmd, pseudo_huber_mmd
from swd_video.losses.random_features import random_features
from swd_video.losses.token_sets import clip_points, frame_sets, joined_sets, motion_sets, tube_sets
from swd_video.objectives.encoder_sections import EncoderConfig
from swd_video.objectives.features import Comparison, FeatureSource, TokenGrid, Window
from swd_video.objectives.learners import ClipPair
from swd_video.objectives.networks import Networks
from swd_video.objectives.sections import MmdTermConfig

Objective = Callable[[Networks, ClipPair, SampleDraws], Tensor]
"""The mean loss of some clips, whose gradients reach the student's; `SampleDraws` gives noise and sigmas."""


@dataclass(frozen=True)
class WeightedObjective:
    """An objective as a part of what a student is trained on.

    Attributes:
        name: for logs and messages: the key below `loss` in a config.
        weight: its factor in the sum.
        objective: the loss.
    """

    name: str
    weight: float
    objective: Objective


@dataclass(frozen=True)
class MmdObjective:
    """Match how frozen networks see prediction and target.

    Attributes:
        terms: comparisons, all with their blocks named; the loss is their weighted sum.
        sources: the network of each term's encoder.
        group: each so many consecutive clips of a batch have the same prompt.
        window: what networks of pixels are shown.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.2 and Eq. 2.
    """

    terms: Sequence[MmdTermConfig]
    sources: Mapping[EncoderConfig, FeatureSource]
    group: int = 1
    window: Window = field(default_factory=Window)

    def __call__(
        self,
        networks: Networks,
        clips: ClipPair,
        draws: SampleDraws,
    ) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach the student's clips only.

        Clips that are not pairs give 0 where no term joins clips.
        Prediction and target get the same noise, sigma and window, clips that are compared with each other the same
        sigma.
        """
        comparison = Comparison(networks, clips, draws, self.group, self.window)
        loss = clips.predicted_x0.new_zeros(())
        for (encoder, sigmas), terms in self._terms_by_view(clips.paired).items():
            blocks = sorted({block for term in terms for block in term.block or ()})
            predicted, target = self.sources[encoder].tokens(comparison, sigmas, blocks)
            for term in terms:
                for block, weight in _weighted_blocks(term):
                    value = self._compare(term, predicted[block], target[block], draws)
                    loss = loss + term.weight * weight * value
        return loss

    def _terms_by_view(
        self, paired: bool
    ) -> dict[tuple[EncoderConfig, tuple[float, float]], list[MmdTermConfig]]:
        """Terms that one pass through an encoder serves, by it and their noise levels.

        Clips that are no pairs are not compared one by one: that would pull each towards another at random.
        """
        terms: dict[tuple[EncoderConfig, tuple[float, float]], list[MmdTermConfig]] = {}
        for term in self.terms:
            if term.join == "none" and not paired:
                continue
            terms.setdefault((term.encoder, (term.sigma_min, term.sigma_max)), []).append(term)
        return terms

    def _compare(
        self,
        term: MmdTermConfig,
        predicted: Tensor,
        target: Tensor,
        draws: SampleDraws,
    ) -> Tensor:
        frames, height, width = predicted.shape[1:4]
        predicted_sets, target_sets = (
            token_sets(tokens.flatten(1, 3), term, (frames, height, width), self.group)
            for tokens in (predicted, target)
        )
        # A draw of a joined set is a clip, which gave `unit` of its tokens.
        unit = predicted_sets.shape[1] // self.group if term.join == "tokens" else 1
        if term.kernel == "pseudo_huber":
            return pseudo_huber_mmd(predicted_sets, target_sets)
        if term.kernel == "linear":
            return linear_mmd(predicted_sets, target_sets, term.estimator, unit)
        if term.kernel == "rational_quadratic":
            mixture = RationalQuadratic(term.bandwidths, term.bandwidth_unit, term.alpha)
            return kernel_mmd(predicted_sets, target_sets, mixture, term.estimator, unit)
        kernel = Rbf(term.bandwidths, term.bandwidth_unit)
        if not term.random_features:
            return kernel_mmd(predicted_sets, target_sets, kernel, term.estimator, unit)
        points = random_features(predicted_sets, target_sets, kernel, term.random_features, draws.shared)
        return linear_mmd(*points, term.estimator, unit)


def token_sets(
    tokens: Float[Tensor, "batch tokens channels"], term: MmdTermConfig, grid: TokenGrid, group: int
) -> Float[Tensor, "sets set_tokens channels"]:
    """The sets of tokens that a term compares.

    Args:
        tokens: after a block, of whole clips.
        term: says what a set is.
        grid: tokens of a clip along frames, height and width.
        group: clips of a prompt, which a term may join.
    """
    sets = tokens
    if term.tokens == "frame":
        sets = frame_sets(tokens, grid[0])
    elif term.tokens == "tube":
        sets = tube_sets(tokens, grid, term.tubes)
    elif term.tokens != "clip":
        sets = motion_sets(tokens, grid[0])
        sets = sets.abs() if term.tokens == "change" else sets
    if term.join == "none":
        return sets
    join = joined_sets if term.join == "tokens" else clip_points
    return join(sets, group, len(sets) // len(tokens))


def check_term(term: MmdTermConfig, grid: TokenGrid) -> None:
    """Refuse a term that a stage's grid has too few tokens for.

    Raises:
        ValueError: naming the key of the term.
    """
    frames = grid[0]
    if term.tokens in ("motion", "change") and frames < 2:
        raise ValueError(
            f"tokens {term.tokens}: needs 2 frames of tokens, got {frames}; use another or longer stages"
        )
    if term.tokens == "tube" and any(parts > size for parts, size in zip(term.tubes, grid, strict=True)):
        raise ValueError(f"tubes: {term.tubes} are more than the {grid} tokens along each axis; take fewer")
    if term.estimator != "biased" and term.join == "none":
        clip = torch.empty(1, frames * grid[1] * grid[2], 1)
        if token_sets(clip, term, grid, 1).shape[1] < 2:
            raise ValueError(f"estimator {term.estimator}: needs sets of 2 tokens; use biased")


def _weighted_blocks(term: MmdTermConfig) -> list[tuple[int, float]]:
    assert term.block is not None, "a term's blocks are named before it is used"
    return list(zip(term.block, term.block_weights or [1.0] * len(term.block), strict=True))
