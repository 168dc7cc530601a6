"""Decoders: PyAV for all that FFmpeg knows, decord where it gives the same frames faster, Pillow for WebP.

Each gives the asked frames of a probed file as uint8 RGB, the way up that a player shows them, transparent
pictures over white.
"""

import bisect
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import av
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from swd_video.data.probe import MISSING_FRAME_ADVICE, VideoError, VideoSource, describe


@cache
def load_decord() -> ModuleType | None:
    """The decord module, its remarks silenced; None where it is not installed or broken."""
    try:
        import decord
    except (ImportError, OSError, RuntimeError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    module: ModuleType = decord
    return module


def decode_with_decord(
    source: VideoSource, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames by decord.

    Args:
        source: the probed file.
        indices: ascending frame numbers, each once.

    Raises:
        VideoError: if decord is missing, fails, or counts other frames than the file has.
    """
    decord = load_decord()
    if decord is None:
        raise VideoError(source.path, "decord is not installed here; pip install decord2, or use PyAV.")
    try:
        reader = decord.VideoReader(str(source.path), ctx=decord.cpu(0))
        if len(reader) != source.info.frames:
            raise VideoError(
                source.path, f"decord finds {len(reader)} frames where there are {source.info.frames}."
            )
        frames: NDArray[np.uint8] = reader.get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        raise VideoError(source.path, f"decord fails: {str(error).splitlines()[0]}") from error
    return frames


def decode_with_pyav(
    source: VideoSource, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames by PyAV, from the nearest key frame on where timestamps tell frames apart.

    Args:
        source: the probed file.
        indices: ascending frame numbers, each once.

    Raises:
        VideoError: if a frame cannot be decoded.
    """
    try:
        with av.open(str(source.path)) as container:
            stream = container.streams[source.stream_index]
            assert isinstance(stream, av.VideoStream)
            stream.thread_type = "AUTO"
            if source.pts is None:
                pictures = _pick_by_count(container, stream, source, indices)
            else:
                pictures = _pick_by_pts(container, stream, source, indices)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(source.path, f"decoding fails: {describe(error)}") from error
    missing = [index for index in indices if index not in pictures]
    if missing:
        raise VideoError(
            source.path,
            f"frame {missing[0]} of {source.info.frames} (at {source.starts[missing[0]]:.3f} s) cannot be "
            f"decoded. {MISSING_FRAME_ADVICE}",
        )
    return np.stack([pictures[index] for index in indices])


def _pick_by_count(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    source: VideoSource,
    indices: Sequence[int],
) -> dict[int, NDArray[np.uint8]]:
    wanted = set(indices)
    pictures = {}
    for index, frame in enumerate(container.decode(stream)):
        if index in wanted:
            pictures[index] = _picture(source, frame)
        if index >= indices[-1]:
            break
    return pictures


def _pick_by_pts(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    source: VideoSource,
    indices: Sequence[int],
) -> dict[int, NDArray[np.uint8]]:
    assert source.pts is not None
    wanted = {source.pts[index]: index for index in indices}
    first, last = source.pts[indices[0]], source.pts[indices[-1]]
    # A seek may land past the first wanted frame (containers seek by decoding time): then start earlier,
    # at last from the very beginning of the file.
    starts = source.keyframe_pts[: bisect.bisect_right(source.keyframe_pts, first)]
    for start in [*reversed(starts[-3:]), None]:
        if start is None:
            container.seek(0, backward=True, any_frame=False)
        else:
            container.seek(start, backward=True, any_frame=False, stream=stream)
        pictures: dict[int, NDArray[np.uint8]] = {}
        landed_early = start is None
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            landed_early = landed_early or frame.pts <= first
            if not landed_early:
                break
            if frame.pts in wanted:
                pictures[wanted[frame.pts]] = _picture(source, frame)
            if frame.pts >= last:
                break
        if landed_early:
            return pictures
    return {}


def _picture(source: VideoSource, frame: av.VideoFrame) -> NDArray[np.uint8]:
    if frame.is_corrupt:
        raise VideoError(
            source.path, f"the frame at {float(frame.time or 0):.3f} s is damaged. {MISSING_FRAME_ADVICE}"
        )
    if source.has_alpha:
        picture = over_white(np.asarray(frame.to_ndarray(format="rgba"), dtype=np.uint8))
    else:
        picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return source.orientation.apply(picture)


def decode_with_pillow(
    source: VideoSource, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames of an animated WebP by Pillow, over white.

    Args:
        source: the probed file.
        indices: ascending frame numbers, each once.

    Raises:
        VideoError: if a frame cannot be decoded.
    """
    pictures = []
    try:
        with Image.open(source.path) as image:
            for index in indices:
                image.seek(index)
                pictures.append(over_white(np.asarray(image.convert("RGBA"), dtype=np.uint8)))
    except (OSError, ValueError, EOFError) as error:
        raise VideoError(source.path, f"decoding fails: {error}") from error
    return np.stack(pictures)


def over_white(picture: UInt8[np.ndarray, "*batch 4"]) -> UInt8[np.ndarray, "*batch 3"]:
    """RGBA with straight alpha laid over white, rounded to the nearest level."""
    colour = picture[..., :3].astype(np.uint32)
    alpha = picture[..., 3:].astype(np.uint32)
    blended: NDArray[np.uint8] = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended
