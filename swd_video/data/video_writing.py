"""Write clips: H.264 that plays everywhere, and animated previews.

Files appear under their name only when they are whole.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as imageio
import numpy as np
from jaxtyping import UInt8

from swd_video.data.probe import VideoError, describe

# What the container itself puts beside our metadata.
_CONTAINER_KEYS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_BT709 = 1
_LIMITED_RANGE = 1


def write_video(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: int | float,
    *,
    metadata: Mapping[str, str] | None = None,
    crf: int = 16,
) -> None:
    """Write an MP4 that plays everywhere: H.264, yuv420p, BT.709, index at the front.

    The same frames give the same bytes: one encoder thread, no dates, and none of the routines of x264 whose
    results depend on the processor (those for AVX-512 differ even from run to run).

    Args:
        path: the file; its folder must exist.
        frames: RGB pictures of even height and width.
        fps: frames per second.
        metadata: text stored in the file, for example the prompt; any key and any Unicode text.
        crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        VideoError: if the size is odd, a number is out of range, there is nothing to write, or writing fails.
    """
    _check(path, frames, fps)
    if not 0 <= crf <= 51:
        raise VideoError(path, f"got crf {crf}, expected 0 to 51.")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise VideoError(
            path,
            f"got {width}x{height} pictures, expected an even width and height for H.264 yuv420p. Crop to "
            f"{width - width % 2}x{height - height % 2}.",
        )

    def write(temporary: Path) -> None:
        # Without use_metadata_tags MP4 keeps a dozen known keys and drops the rest.
        options = {"movflags": "+faststart+use_metadata_tags"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            container.metadata.update(metadata or {})
            _encode(container, frames, fps, crf)

    _write_whole(path, write)


def _encode(
    container: av.container.OutputContainer,
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: int | float,
    crf: int,
) -> None:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    x264 = "threads=1:cpu-independent=1"
    stream.options = {"crf": str(crf), "preset": "medium", "x264-params": x264}
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = _LIMITED_RANGE
    for picture in frames:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            dst_colorspace="itu709",
            dst_color_range="MPEG",
            interpolation="AREA",
            threads=1,
        )
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def read_video_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that `write_video` stored in a file.

    Raises:
        VideoError: if the file cannot be opened.
    """
    try:
        with av.open(os.fspath(path)) as container:
            return {key: value for key, value in container.metadata.items() if key not in _CONTAINER_KEYS}
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be read as video: {describe(error)}") from error


def write_preview(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: int | float,
    *,
    quality: int = 80,
) -> None:
    """Write an endless animated WebP or GIF, by the ending of `path`.

    Frame durations are whole milliseconds in WebP, hundredths of a second in GIF, and spread so that the
    whole keeps its length.

    Args:
        path: a name ending in .webp or .gif; its folder must exist.
        frames: RGB pictures.
        fps: frames per second.
        quality: of WebP, 0 to 100.

    Raises:
        VideoError: if the name ends otherwise, there is nothing to write, or writing fails.
    """
    _check(path, frames, fps)
    suffix = Path(path).suffix.lower()
    if suffix not in (".webp", ".gif"):
        raise VideoError(path, f"got a preview named {suffix or 'without ending'}, expected .webp or .gif.")
    unit = 1 if suffix == ".webp" else 10
    ends = [round(1000 / unit * count / fps) * unit for count in range(len(frames) + 1)]
    durations = [max(end - start, unit) for start, end in itertools.pairwise(ends)]
    settings: dict[str, Any] = {"quality": quality, "method": 4} if suffix == ".webp" else {}

    def write(temporary: Path) -> None:
        pictures: Sequence[Any] = list(frames)
        imageio.imwrite(
            temporary, pictures, plugin="pillow", extension=suffix, duration=durations, loop=0, **settings
        )

    _write_whole(path, write)


def _check(path: str | os.PathLike[str], frames: UInt8[np.ndarray, "_ _ _ 3"], fps: int | float) -> None:
    if len(frames) == 0:
        raise VideoError(path, "got no frames to write, expected at least one.")
    if not 0 < fps <= 1000:
        raise VideoError(path, f"got fps {fps}, expected a number above 0 and at most 1000.")


def _write_whole(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be written: {describe(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
