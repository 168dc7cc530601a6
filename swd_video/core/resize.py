"""Moving pixels and latents between the grids of a schedule.

Both ends of a clip stay in place when its number of frames changes: halving the frame rate of 81 frames
gives 41 frames, whose first and last are the old first and last, and the same holds for the 21 and 11 latent
frames that a causal VAE makes of them.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import LatentSize, PixelSize

Upsample: TypeAlias = Callable[[Tensor, LatentSize], Tensor]
"""Clean latents and the size they are to have, to latents of that size."""


def resize_latents(
    latents: Float[Tensor, "batch channels _ _ _"], size: LatentSize, repeated_frames: int = 0
) -> Float[Tensor, "batch channels _ _ _"]:
    """Resize latents to another grid: bicubic in space, linear between frames in time.

    Latents that already have the size come back as they are, not copied. Computed in at least float32.

    Args:
        latents: clean ones.
        size: of the grid.
        repeated_frames: copies of the first frame in front of it (`Compression`). They are no time of the clip, so
            they are left out and made again.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.1: bicubic in space,
    blending of adjacent frames in time.
    """
    if tuple(latents.shape[2:]) == size.as_tuple():
        return latents
    wide = latents[:, :, repeated_frames:].to(torch.promote_types(latents.dtype, torch.float32))
    wide = _resize_space(wide, size.height, size.width)
    wide = _resize_time(wide, size.frames - repeated_frames)
    if repeated_frames:
        wide = torch.cat([wide[:, :, :1]] * repeated_frames + [wide], dim=2)
    return wide.to(latents.dtype)


def resize_latents_trilinearly(
    latents: Float[Tensor, "batch channels _ _ _"], size: LatentSize
) -> Float[Tensor, "batch channels _ _ _"]:
    """Resize latents linearly along all axes, ends not aligned: the way of `diffusers.FlowMatchLCMScheduler`.

    Time is treated like space, so the first and the last frame do not stay in place.
    """
    if tuple(latents.shape[2:]) == size.as_tuple():
        return latents
    wide = latents.to(torch.promote_types(latents.dtype, torch.float32))
    wide = F.interpolate(wide, size=size.as_tuple(), mode="trilinear", align_corners=False)
    return wide.to(latents.dtype)


def resize_pixels(
    pixels: Float[Tensor, "batch channels _ _ _"], size: PixelSize
) -> Float[Tensor, "batch channels _ _ _"]:
    """Resize pixels in [-1, 1] to another size: frames are picked, pictures are resized bicubically.

    Frames are picked evenly, the first and the last always among them, each the nearest to where an even
    spacing would put it (exactly even where `size.frames - 1` divides the old count less one); nothing is
    blended in time. A single frame is the first. Antialiased when shrinking; overshoot is cut off at [-1, 1].

    Raises:
        ValueError: if more frames are asked for than there are.
    """
    available = pixels.shape[2]
    if size.frames > available:
        raise ValueError(
            f"cannot pick {size.frames} frames from a clip of {available}; give a longer clip or ask for "
            f"at most {available} frames."
        )
    picked = pixels[:, :, even_frame_indices(available, size.frames)] if size.frames < available else pixels
    if tuple(picked.shape[3:]) == (size.height, size.width):
        return picked
    wide = picked.to(torch.promote_types(pixels.dtype, torch.float32))
    return _resize_space(wide, size.height, size.width).clamp(-1, 1).to(pixels.dtype)


def even_frame_indices(available: int, wanted: int) -> list[int]:
    """Which `wanted` of `available` frames are spread evenly over the clip, both ends kept."""
    if wanted == 1:
        return [0]
    gaps = wanted - 1
    # Whole-number arithmetic, halves rounding up, so that no float decides which frame is seen.
    return [(2 * index * (available - 1) + gaps) // (2 * gaps) for index in range(wanted)]


def _resize_space(video: Tensor, height: int, width: int) -> Tensor:
    if tuple(video.shape[3:]) == (height, width):
        return video
    shrinks = height < video.shape[3] or width < video.shape[4]
    pictures = rearrange(video, "b c f h w -> (b f) c h w")
    pictures = F.interpolate(
        pictures, size=(height, width), mode="bicubic", align_corners=False, antialias=shrinks
    )
    return rearrange(pictures, "(b f) c h w -> b c f h w", b=video.shape[0])


def _resize_time(video: Tensor, frames: int) -> Tensor:
    batch, _, old_frames, height, _ = video.shape
    if old_frames == frames:
        return video
    lines = rearrange(video, "b c f h w -> (b h w) c f")
    lines = F.interpolate(lines, size=frames, mode="linear", align_corners=True)
    return rearrange(lines, "(b h w) c f -> b c f h w", b=batch, h=height)
