"""Clips of a manifest as pixels: read, cropped around the centre and shrunk; or why one cannot be had."""

import errno
import math
import os
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from swd_video.core.grid import PixelSize
from swd_video.core.pixels import pixels_from_frames
from swd_video.core.resize import resize_pixels
from swd_video.data.manifest import Clip
from swd_video.data.video import Decoder, VideoError, probe_video, read_video
from swd_video.plain_text import describe_error, on_one_line

# Frames converted to float at once: a minute of full HD in float32 would not fit in memory.
_FRAMES_AT_ONCE = 8
# What the system says when the next clip would fare no better: no handles or memory left, or the disk of the clips went
# away. Not every system knows all of them.
_MACHINE_ERRORS = {
    getattr(errno, name, errno.EIO)
    for name in (
        *("EMFILE", "ENFILE", "ENOMEM", "EIO", "ENODEV", "ENXIO", "ENOTCONN", "ESTALE", "ETIMEDOUT"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
    )
}


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
        for folder in clip.path.parents:
            _device_at_first(folder)
        return clip_pixels(clip, size, fps, decoder)
    except Exception as error:
        # All of them: decoders have more ways to fail than anybody has thought of.
        if (failure := _machine_failure(error, clip)) is not None:
            raise failure from error
        return error.reason if isinstance(error, VideoError) else describe_error(error)


def _machine_failure(error: BaseException | None, clip: Clip) -> OSError | None:
    """The failure of the machine, if one is behind an error."""
    while error is not None:
        # FFmpeg opens no file here; where it says EIO or ENOMEM itself, it is a damaged file's nonsense.
        code = None if isinstance(error, av.FFmpegError) else getattr(error, "errno", None)
        if code in _MACHINE_ERRORS:
            return OSError(code, os.strerror(code), clip.name)
        for folder in clip.path.parents if code == errno.ENOENT else ():
            if _device_at_first(folder) not in (None, _device(folder)):
                return OSError(errno.ENODEV, f"{on_one_line(str(folder))} was there and is gone", clip.name)
        error = error.__cause__ or error.__context__
    return None


def _device(folder: Path) -> int | None:
    """Which disk a folder lies on; None where there is no such folder."""
    try:
        return folder.stat().st_dev
    except (OSError, ValueError):
        return None


# Where an unmounted disk was lies an empty folder of another.
_device_at_first = cache(_device)
