"""Pixels in the form that a network of pictures was trained on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


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
