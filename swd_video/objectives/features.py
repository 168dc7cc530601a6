"""What an MMD compares: tokens of the student's clips and of the true ones, from networks of latents or of pixels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from swd_video.core.flow import add_noise
from swd_video.core.grid import Compression, LatentSize, window_size
from swd_video.core.randomness import SampleDraws
from swd_video.core.windows import draw_window
from swd_video.models.pixel_encoders import PixelEncoder
from swd_video.models.recomputation import decode_clips
from swd_video.objectives.learners import ClipPair
from swd_video.objectives.networks import Networks

TokenGrid = tuple[int, int, int]
Tokens = dict[int, Tensor]
"""By block: batch, frames, height, width, channels."""


@dataclass(frozen=True)
class Window:
    """What networks of pixels are shown.

    Attributes:
        frames: at most so many latent frames; None for all.
        crop: at most so much height and width, in latents; None for the whole picture.
    """

    frames: int | None = None
    crop: tuple[int, int] | None = None

    def size(self, grid: LatentSize) -> LatentSize:
        """The size of a window of a grid."""
        return window_size(grid, self.frames, self.crop)


class Comparison:
    """The clips of a micro-batch as they are compared: with the same noise, or cut to the same window.

    Args:
        networks: teacher, critic and VAE.
        clips: the student's and the true ones.
        draws: give noise, noise levels, and the place of a window.
        group: each so many consecutive clips get one noise level.
        window: what networks of pixels are shown.
    """

    def __init__(
        self, networks: Networks, clips: ClipPair, draws: SampleDraws, group: int, window: Window
    ) -> None:
        self.networks, self.clips = networks, clips
        target, device = clips.target_x0, clips.predicted_x0.device
        self._noise = draws.normal_like(target)
        # The first clip of a group draws for all of it.
        self._share = draws.uniform()[::group].repeat_interleave(group).to(device)
        self._draws, self._window = draws, window

    def noised(self, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor, Tensor]:
        """(student's clips, true clips, noise levels), for levels drawn evenly between two."""
        sigma = sigma_min + (sigma_max - sigma_min) * self._share
        predicted, target = (
            add_noise(x0, self._noise, sigma) for x0 in (self.clips.predicted_x0, self.clips.target_x0)
        )
        return predicted, target, sigma

    @cached_property
    def pixels(self) -> tuple[Tensor, Tensor]:
        """One window of (student's clips, true clips), decoded once for all networks."""
        grid = LatentSize(*self.clips.target_x0.shape[2:])
        window = draw_window(grid, self._window.size(grid), self._draws.shared)
        with torch.no_grad():
            target = decode_clips(self.networks.model, window.cut(self.clips.target_x0))
        return decode_clips(self.networks.model, window.cut(self.clips.predicted_x0)), target


class FeatureSource(ABC):
    """A frozen network that gives tokens to compare.

    Attributes:
        name: for messages.
        num_blocks: that it has.
    """

    name: str
    num_blocks: int

    @abstractmethod
    def grid(self, latents: LatentSize, block: int) -> TokenGrid:
        """Tokens along frames, height and width of a stage's clips; frames that repeat each other do not count."""

    @abstractmethod
    def tokens(
        self, comparison: Comparison, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> tuple[Tokens, Tokens]:
        """Tokens of (student's clips, true clips); gradients reach the student's clips alone.

        Args:
            comparison: the clips.
            sigmas: lowest and highest noise level, for networks that see noise.
            blocks: of the network, from 0.
        """


@dataclass(frozen=True)
class BlockFeatures(FeatureSource):
    """Blocks of the transformer, which see latents.

    Attributes:
        name: whose they are: the teacher's, or those of the critic, which learns beside the student.
        num_blocks: that it has.
        patch: latents in a token along frames, height and width.
        clean: at noise level 0 whatever `sigmas` are.
    """

    name: Literal["teacher", "critic"]
    num_blocks: int
    patch: tuple[int, int, int]
    clean: bool = False

    def grid(self, latents: LatentSize, block: int) -> TokenGrid:
        """Tokens of the transformer."""
        return token_grid(latents.as_tuple(), self.patch)

    def tokens(
        self, comparison: Comparison, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> tuple[Tokens, Tokens]:
        """Tokens of (student's clips, true clips), noised alike."""
        predicted, target, sigma = comparison.noised(*((0.0, 0.0) if self.clean else sigmas))
        networks, prompt_embeds = comparison.networks, comparison.clips.prompt_embeds
        with torch.no_grad():
            of_target = networks.features(self.name, target, sigma, prompt_embeds, blocks)
        of_predicted = networks.features(self.name, predicted, sigma, prompt_embeds, blocks)
        grid = token_grid(target.shape[2:], self.patch)
        of_predicted, of_target = (
            {block: flat.unflatten(1, grid) for block, flat in tokens.items()}
            for tokens in (of_predicted, of_target)
        )
        return of_predicted, of_target


class PixelFeatures(FeatureSource):
    """Blocks of a network that sees pixels.

    Args:
        encoder: the network.
        compression: of the VAE.
        window: what it is shown of a clip.
    """

    def __init__(self, encoder: PixelEncoder, compression: Compression, window: Window) -> None:
        self.name, self.num_blocks = encoder.name, encoder.num_blocks
        self._encoder, self._compression, self._window = encoder, compression, window

    def grid(self, latents: LatentSize, block: int) -> TokenGrid:
        """Tokens of a window."""
        shown = self._compression.pixel_size(self._window.size(latents))
        frames, height, width = self._encoder.grid(shown, block)
        return min(frames, shown.frames), height, width

    def tokens(
        self, comparison: Comparison, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> tuple[Tokens, Tokens]:
        """Tokens of (student's clips, true clips) in the same window."""
        predicted, target = comparison.pixels
        with torch.no_grad():
            of_target = self._encoder.features(target, blocks)
        of_predicted = self._encoder.features(predicted, blocks)
        return dict(zip(blocks, of_predicted, strict=True)), dict(zip(blocks, of_target, strict=True))


def token_grid(latent_size: Sequence[int], patch: tuple[int, int, int]) -> TokenGrid:
    """Tokens of a transformer for a clip, along frames, height and width."""
    frames, height, width = (size // step for size, step in zip(latent_size, patch, strict=True))
    return frames, height, width
