"""Windows of latent clips: cuboids short and narrow enough to be decoded with gradients."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import LatentSize


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
