"""The one way between frames, 8 bits a colour, and pixels in [-1, 1]."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def pixels_from_frames(frames: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0 to 255 as float32 in [-1, 1]; axes stay as they are."""
    return frames.float() / 127.5 - 1


def frames_from_pixels(pixels: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1], and what decoders give beyond it, to the nearest of 0 to 255; axes stay as they are."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
