"""Decoders: PyAV for all that FFmpeg knows, decord where it gives the same frames faster, Pillow for WebP.

Each gives the asked frames of a probed file as uint8 RGB, the way up that a player shows them, transparent
pictures over white.
"""

import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import ModuleType

import av
import av.filter
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from swd_video.data.colours import UNREADABLE, frame_to_rgb, picture_to_rgb, refuse_colours
from swd_video.data.containers import DAMAGE_ADVICE, VideoError, open_container
from swd_video.data.probe import VideoSource


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
    except (decord.DECORDError, RuntimeError, AssertionError, UnicodeError) as error:
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
    with open_container(source.path) as container:
        stream = container.streams[source.stream_index]
        assert isinstance(stream, av.VideoStream)
        stream.thread_type = "AUTO"
        if source.pts is None:
            pictures = _pick_by_count(container, stream, source, indices)
        else:
            pictures = _pick_by_pts(container, stream, source, indices)
    missing = [index for index in indices if index not in pictures]
    if missing:
        raise VideoError(
            source.path,
            f"frame {missing[0]} of {source.info.frames} (at {source.starts[missing[0]]:.3f} s) cannot be "
            f"decoded. {DAMAGE_ADVICE}",
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
    for index, frame in enumerate(_frames(container, stream, source)):
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
    # Deinterlacing looks at the frame before.
    first = source.pts[max(0, indices[0] - source.interlaced)]
    last = source.pts[indices[-1]]
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
        for frame in _frames(container, stream, source):
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


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, source: VideoSource
) -> Iterator[av.VideoFrame]:
    if source.alpha_decoder is None:
        frames: Iterable[av.VideoFrame] = container.decode(stream)
    else:
        decoder = av.CodecContext.create(source.alpha_decoder, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.extradata = stream.codec_context.extradata
        frames = (frame for packet in container.demux(stream) for frame in decoder.decode(packet))
    return _deinterlaced(frames, stream) if source.interlaced else iter(frames)


def _deinterlaced(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """As many frames, those that hold two moments reduced to the first."""
    graph = av.filter.Graph()
    times: deque[int | None] = deque()

    def finished() -> Iterator[av.VideoFrame]:
        while True:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            # The filter counts in half ticks.
            frame.pts, frame.time_base = times.popleft(), stream.time_base
            yield frame

    for frame in frames:
        if not graph.configured:
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base
            )
            graph.link_nodes(
                source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
            )
            graph.configure()
        times.append(frame.pts)
        graph.vpush(frame)
        yield from finished()
    if graph.configured:
        graph.vpush(None)
        yield from finished()


def _picture(source: VideoSource, frame: av.VideoFrame) -> NDArray[np.uint8]:
    moment = f"the frame at {float(frame.time or 0):.3f} s"
    if frame.is_corrupt:
        raise VideoError(source.path, f"{moment} is damaged. {DAMAGE_ADVICE}")
    if frame.interlaced_frame and not source.interlaced:
        raise VideoError(
            source.path, f"{moment} is interlaced, the first one is not. Deinterlace the file first."
        )
    refuse_colours(source.path, frame.color_trc, frame.color_primaries, frame.colorspace)
    picture = source.orientation.apply(frame_to_rgb(frame, source.matrix))
    if picture.shape[:2] != (source.info.height, source.info.width):
        raise VideoError(source.path, f"{moment} has another size than the first one. Cut the file in two.")
    return picture


def decode_with_pillow(
    source: VideoSource, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames of an animated WebP or AVIF by Pillow, over white.

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
                pictures.append(picture_to_rgb(image))
    except UNREADABLE as error:
        raise VideoError(source.path, f"decoding fails: {error}") from error
    return np.stack(pictures)
