"""Read and write clips: one function each way, whatever the file.

Time is in seconds from the first frame that is shown. A clip read at a rate of its own choosing gets, for
each of its frames, the picture on display in the middle of that frame's interval; so files of varying frame
rate, GIFs among them, play at their true speed. What a file says about its pictures is honoured (transparent parts are
laid over white, interlaced pictures deinterlaced, colours taken to BT.709), or it is refused (HDR); docs/distill.md has
the table.
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from swd_video.data.containers import VideoError
from swd_video.data.decoders import decode_with_decord, decode_with_pillow, decode_with_pyav, load_decord
from swd_video.data.probe import BY_PILLOW, VideoFile, probe_video
from swd_video.data.video_writing import FrameSpool, read_video_metadata, write_preview, write_video

__all__ = [
    "FrameSpool",
    "VideoError",
    "VideoFile",
    "choose_decoder",
    "probe_video",
    "read_frames",
    "read_video",
    "read_video_metadata",
    "write_preview",
    "write_video",
]

Decoder = Literal["auto", "decord", "pyav"]

# Containers round times to a millisecond, and so do people who write down where a clip starts: times this close to a
# frame's mean that frame's, where frames are not closer to each other.
_TIME_TOLERANCE_SECONDS = 1.5e-3
_COUNT_TOLERANCE = 0.05


def choose_decoder(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Which decoder `read_video(decoder="auto")` takes for a file, and why.

    Returns:
        "decord", "pyav" or "pillow", and the reason in a few words.

    Raises:
        VideoError: if the file cannot be read at all.
    """
    video = probe_video(path)
    if video.codec in BY_PILLOW:
        return "pillow", "FFmpeg knows no animated WebP and no transparent AVIF"
    if video.decord_objection is not None:
        return "pyav", video.decord_objection
    if load_decord() is None:
        return "pyav", "decord is not installed"
    return "decord", "fast, and gives the same frames"


def read_video(
    path: str | os.PathLike[str],
    *,
    start_seconds: int | float = 0.0,
    end_seconds: int | float | None = None,
    num_frames: int | None = None,
    fps: int | float | None = None,
    decoder: Decoder = "auto",
) -> tuple[UInt8[np.ndarray, "frames height width 3"], float]:
    """Read a clip.

    Args:
        path: any file that FFmpeg reads, or an animated WebP or AVIF.
        start_seconds: where the clip starts.
        end_seconds: where it ends; by default with the file.
        num_frames: how many frames: the first ones where `fps` is given, else spread evenly over the clip.
            By default all of them.
        fps: rate to resample to; by default the frames as they are. Pictures repeat where the file is slower.
        decoder: "auto" takes decord where it is installed and gives the same frames, else, or where it fails
            (some widths below 100), PyAV, and Pillow for WebP; "decord" fails where it would not give the
            same frames. Of a file with damaged pictures decord repairs what it can without a word, where
            PyAV mostly notices.

    Returns:
        RGB frames, and their rate in frames per second (the mean where the file's varies and `fps` is None).

    Raises:
        VideoError: if the file cannot be read, is shorter than asked, or is not one for the asked decoder.
    """
    video = probe_video(path)
    picked, rate = pick_frames(
        video, start_seconds=start_seconds, end_seconds=end_seconds, num_frames=num_frames, fps=fps
    )
    distinct, position = np.unique(picked, return_inverse=True)
    frames = _decode(video, [int(index) for index in distinct], decoder)
    return (frames if len(distinct) == len(picked) else frames[position]), float(rate)


def read_frames(
    path: str | os.PathLike[str], numbers: Sequence[int], decoder: Decoder = "auto"
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Read frames by their numbers from 0 on, ascending and each once, and no others.

    Returns:
        RGB frames.

    Raises:
        VideoError: if the file cannot be read, or is not one for the asked decoder, as in `read_video`.
    """
    return _decode(probe_video(path), list(numbers), decoder)


def pick_frames(
    video: VideoFile,
    *,
    start_seconds: int | float,
    end_seconds: int | float | None,
    num_frames: int | None,
    fps: int | float | None,
) -> tuple[NDArray[np.int64], int | float]:
    """The numbers of the frames that `read_video` reads, ascending, and their rate.

    Raises:
        VideoError: if the file is shorter than asked.
    """
    end = video.seconds if end_seconds is None else end_seconds
    _check_window(video, start_seconds, end, num_frames, fps)
    end = min(end, video.seconds)
    window = f"from {start_seconds:g} s to {end:.4g} s"
    if fps is None:
        gaps = np.diff(video.starts)
        tolerance = min(_TIME_TOLERANCE_SECONDS, gaps.min() / 2) if len(gaps) else _TIME_TOLERANCE_SECONDS
        limit = np.inf if end >= video.seconds - tolerance else end
        inside = np.flatnonzero(
            (video.starts >= start_seconds - tolerance) & (video.starts < limit - tolerance)
        )
        if len(inside) == 0:
            raise VideoError(video.path, f"no frame appears {window}. Widen it, or give fps.")
        if num_frames is None:
            return inside, video.fps
        if num_frames > len(inside):
            raise VideoError(
                video.path, f"has {len(inside)} frames {window}, fewer than the {num_frames} asked for."
            )
        rate = num_frames / (end - start_seconds)
        return _on_display(video, start_seconds, num_frames, rate), rate
    available = math.floor((end - start_seconds) * fps + _COUNT_TOLERANCE)
    wanted = available if num_frames is None else num_frames
    if wanted < 1 or wanted > available:
        raise VideoError(
            video.path,
            f"has {available} frames at {fps:g} fps {window}, fewer than the {max(wanted, 1)} asked for.",
        )
    return _on_display(video, start_seconds, wanted, fps), fps


def _check_window(
    video: VideoFile, start: int | float, end: int | float, num_frames: int | None, fps: int | float | None
) -> None:
    length = video.seconds
    if not 0 <= start < end:
        raise VideoError(video.path, f"got a clip from {start:g} s to {end:g} s, expected 0 <= start < end.")
    if not end <= length + 0.5 / video.fps:
        raise VideoError(video.path, f"is {length:.4g} s long, but the clip is to end at {end:g} s.")
    if num_frames is not None and num_frames < 1:
        raise VideoError(video.path, f"got num_frames {num_frames}, expected at least 1.")
    if fps is not None and not 0 < fps < math.inf:
        raise VideoError(video.path, f"got fps {fps}, expected a positive number.")


def _on_display(
    video: VideoFile, start_seconds: int | float, num_frames: int, fps: int | float
) -> NDArray[np.int64]:
    """The number of the frame on display in the middle of each of `num_frames` intervals at `fps`.

    At half a file's rate, or a quarter, every middle is the moment at which a frame appears, give or take a rounding:
    a frame that appears so little later counts as there.
    """
    middles = start_seconds + (np.arange(num_frames) + 0.5) / fps
    # A quarter of an interval, of the file's or of the clip's, leaves middles alone that lie between two frames.
    gaps = np.minimum(np.diff(video.starts, prepend=-np.inf), 1 / fps)
    appear = video.starts - np.minimum(_TIME_TOLERANCE_SECONDS, gaps / 4)
    return np.asarray(np.searchsorted(appear, middles, side="right") - 1, dtype=np.int64)


def _decode(
    video: VideoFile, indices: list[int], decoder: Decoder
) -> UInt8[np.ndarray, "frames height width 3"]:
    if decoder not in ("auto", "decord", "pyav"):
        raise ValueError(f'decoder: got {decoder!r}, expected "auto", "decord" or "pyav".')
    for first, stop in video.damage:
        if any(first <= index < stop for index in indices):
            ends = (*video.starts, video.seconds)
            window = f"from {ends[first]:.3f} s to {ends[stop]:.3f} s"
            raise VideoError(video.path, f"is damaged {window}. Take another part, or fetch it again.")
    if decoder == "decord" and video.decord_objection is not None:
        raise VideoError(
            video.path, f"decord would not give the right frames: {video.decord_objection}. Use PyAV."
        )
    if video.codec in BY_PILLOW:
        return decode_with_pillow(video, indices)
    if decoder == "decord":
        return decode_with_decord(video, indices)
    if decoder == "auto" and video.decord_objection is None and load_decord() is not None:
        # Else PyAV either reads the file, or has the better explanation of what is wrong with it.
        with suppress(VideoError):
            return decode_with_decord(video, indices)
    return decode_with_pyav(video, indices)
