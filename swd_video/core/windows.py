"""Windows of clips: cuboids short and narrow enough to be decoded with gradients."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from swd_video.core.grid import LatentSize, PixelSize


@dataclass(frozen=True)
class Window:
    """A cuboid of a grid of latents or of pixels.

    Attributes:
        start: first frame, row and column.
        size: frames, height and width.
    """

    start: tuple[int, int, int]
    size: LatentSize | PixelSize

    def cut(
        self, clips: Shaped[Tensor, "batch channels frames height width"]
    ) -> Shaped[Tensor, "batch channels window_frames window_height window_width"]:
        """The same window of every clip."""
        for axis, (first, length) in enumerate(zip(self.start, self.size.as_tuple(), strict=True)):
            clips = clips.narrow(2 + axis, first, length)
        return clips


def draw_window(grid: LatentSize, size: LatentSize, generator: torch.Generator) -> Window:
    """A window of this size anywhere in a grid, all places alike."""
    room = [whole - part for whole, part in zip(grid.as_tuple(), size.as_tuple(), strict=True)]
    frame, row, column = (int(torch.randint(0, free + 1, (), generator=generator)) for free in room)
    return Window((frame, row, column), size)
