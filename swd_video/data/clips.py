"""Clips of a manifest as pixels: read, cropped around the centre and shrunk; or why one cannot be had."""

import errno
import math
import os

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from swd_video.core.grid import PixelSize
from swd_video.core.pixels import pixels_from_frames
from swd_video.core.resize import resize_pixels
from swd_video.data.manifest import Clip
from swd_video.data.video import Decoder, VideoError, probe_video, read_video
from swd_video.plain_text import describe_error

# Frames converted to float at once: a minute of full HD in float32 would not fit in memory.
_FRAMES_AT_ONCE = 8
# What the system says when the next clip would fare no better: no handles left, or the disk of the clips went away.
_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT}


def clip_pixels(
    clip: Clip, size: PixelSize, fps: int | float, decoder: Decoder = "pyav"
) -> Float[Tensor, "1 3 frames height width"]:
    """Read a clip as pixels in [-1, 1]: the first `size.frames` at `fps`, cropped and shrunk to `size`.

    Raises:
        VideoError: if it cannot be read, is shorter or smaller than `size`, or its line in the manifest is at fault.
    """
    if clip.problem:
        raise VideoError(clip.path, clip.problem)
    frames, _ = read_video(
        clip.path,
        start_seconds=clip.start,
        end_seconds=clip.end,
        num_frames=size.frames,
        fps=fps,
        decoder=decoder,
    )
    try:
        frames = crop_to_shape(frames, size, probe_video(clip.path).pixel_aspect)
    except ValueError as error:
        raise VideoError(clip.path, str(error)) from error
    pieces = []
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        piece = torch.from_numpy(np.ascontiguousarray(frames[start : start + _FRAMES_AT_ONCE]))
        pixels = pixels_from_frames(piece.permute(3, 0, 1, 2)[None])
        pieces.append(resize_pixels(pixels, PixelSize(pixels.shape[2], size.height, size.width)))
    return torch.cat(pieces, dim=2)


def crop_to_shape(
    frames: UInt8[np.ndarray, "frames height width 3"], size: PixelSize, pixel_aspect: int | float = 1.0
) -> UInt8[np.ndarray, "frames _ _ 3"]:
    """Cut out the largest centred part that has the shape of `size` when shown.

    `pixel_aspect` is the width of a stored pixel over its height.

    Raises:
        ValueError: if the part is smaller than `size`.
    """
    height, width = frames.shape[1:3]
    # Shown, the picture is width * pixel_aspect by height. How often `size` fits into it on each axis:
    scale = min(height / size.height, width * pixel_aspect / size.width)
    rows = min(height, round(scale * size.height))
    columns = min(width, round(scale * size.width / pixel_aspect))
    if scale < 1 and not math.isclose(scale, 1):
        raise ValueError(
            f"shows {round(width * pixel_aspect)}x{height} pixels, fewer than the {size.width}x{size.height} "
            "(width x height) of the schedule's last stage."
        )
    top, left = (height - rows) // 2, (width - columns) // 2
    return frames[:, top : top + rows, left : left + columns]


def pixels_or_reason(
    clip: Clip, size: PixelSize, fps: int | float, decoder: Decoder = "pyav"
) -> Float[Tensor, "1 3 frames height width"] | str:
    """What `clip_pixels` gives, or why it gives nothing, whatever that is.

    Raises:
        OSError: if the machine failed, so that other clips would fail too.
    """
    try:
        return clip_pixels(clip, size, fps, decoder)
    except Exception as error:
        # All of them: decoders have more ways to fail than anybody has thought of.
        if (code := _machine_error(error)) is not None:
            raise OSError(code, os.strerror(code), clip.name) from error
        return error.reason if isinstance(error, VideoError) else describe_error(error)


def _machine_error(error: BaseException | None) -> int | None:
    while error is not None:
        code = getattr(error, "errno", None)
        if code in _MACHINE_ERRORS:
            return int(code)
        error = error.__cause__ or error.__context__
    return None
