"""Latents as networks of pixels want them: windows of clips, decoded with gradients, in the size they expect.

Decoding keeps far more for the backward pass than a transformer does. Three things bound it: a window is short and
narrow, clips are decoded one at a time, and each is decoded again in the backward pass, so that the graph of one window
is all that is ever there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from swd_video.core.grid import LatentSize
from swd_video.models.base import VideoModel


@dataclass(frozen=True)
class LatentWindow:
    """A cuboid of a latent grid.

    Attributes:
        start: first frame, row and column.
        size: frames, height and width.
    """

    start: tuple[int, int, int]
    size: LatentSize

    def cut(
        self, latents: Float[Tensor, "batch channels frames height width"]
    ) -> Float[Tensor, "batch channels window_frames window_height window_width"]:
        """The same window of every clip."""
        for axis, (first, length) in enumerate(zip(self.start, self.size.as_tuple(), strict=True)):
            latents = latents.narrow(2 + axis, first, length)
        return latents


def window_size(grid: LatentSize, frames: int | None, crop: tuple[int, int] | None) -> LatentSize:
    """What a window shows of a grid: at most so many frames and so much of the picture; None for all of it."""
    height, width = crop or (grid.height, grid.width)
    return LatentSize(
        min(frames or grid.frames, grid.frames), min(height, grid.height), min(width, grid.width)
    )


def draw_window(grid: LatentSize, size: LatentSize, generator: torch.Generator) -> LatentWindow:
    """A window of this size anywhere in a grid, all places alike.

    Args:
        grid: at least as large.
        size: of the window.
        generator: on the CPU.
    """
    room = [whole - part for whole, part in zip(grid.as_tuple(), size.as_tuple(), strict=True)]
    frame, row, column = (int(torch.randint(0, free + 1, (), generator=generator)) for free in room)
    return LatentWindow((frame, row, column), size)


def decode_clips(
    model: VideoModel, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
) -> Float[Tensor, "batch 3 frames height width"]:
    """Latents to float32 pixels in [-1, 1] or a little beyond, clip by clip; gradients reach `latents`.

    A window that does not begin with its clip is decoded as if it did: its first latent frame becomes one picture,
    which is softer than it would be in the clip. Autocast is off: small differences of pixels would drown in bfloat16.

    Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
    """

    def decode(clip: Tensor) -> list[Tensor]:
        with torch.autocast(clip.device.type, enabled=False):
            return [model.decode(clip.float()).float()]

    return recomputed_by_clip(decode, latents)[0]


def recomputed_by_clip(
    run: Callable[[Tensor], list[Tensor]], clips: Float[Tensor, "batch ..."]
) -> list[Tensor]:
    """What `run` makes of each clip alone, joined; computed again, clip by clip, in the backward pass.

    Args:
        run: takes a batch and gives several; nothing in it is random.
        clips: its input.
    """
    # Without the early stop, networks that keep tensors in themselves (causal VAEs) come to their end and drop them.
    with set_checkpoint_early_stop(False):
        parts = [
            checkpoint(run, clip, use_reentrant=False, preserve_rng_state=False) for clip in clips.split(1)
        ]
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


@dataclass(frozen=True)
class PixelForm:
    """How a network wants its pictures.

    Attributes:
        frames: how many; None for as many as there are.
        height_px, width_px: their size, whatever shape they had.
        mean, std: of what it was trained on, for each colour, in pixels from 0 to 1.
    """

    frames: int | None
    height_px: int
    width_px: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def shape(
        self, pixels: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch 3 shown_frames shown_height shown_width"]:
        """Pixels in [-1, 1] to the network's form; gradients reach them.

        Frames are picked evenly from the first to the last, and repeat where there are too few.
        """
        count = pixels.shape[2]
        if self.frames is not None and self.frames != count:
            picked = torch.linspace(0, count - 1, self.frames).round().long()
            pixels = pixels.index_select(2, picked.to(pixels.device))
        mean, std = (
            torch.tensor(values, device=pixels.device).view(1, 3, 1, 1, 1) for values in (self.mean, self.std)
        )
        pictures = ((pixels + 1) / 2).transpose(1, 2)
        resized = resize_pictures(pictures.flatten(0, 1), (self.height_px, self.width_px))
        return (resized.unflatten(0, pictures.shape[:2]).transpose(1, 2) - mean) / std


def resize_pictures(
    pictures: Float[Tensor, "pictures 3 height width"], size: tuple[int, int]
) -> Float[Tensor, "pictures 3 new_height new_width"]:
    """Bilinear and antialiased; pictures of that size are given back as they are."""
    if pictures.shape[-2:] == size:
        return pictures
    return functional.interpolate(pictures, size=size, mode="bilinear", antialias=True, align_corners=False)
