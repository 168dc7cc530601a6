"""Decoders: PyAV for all that FFmpeg knows, decord where it gives the same frames faster, Pillow for WebP.

Each gives some frames of a probed file, by their numbers, ascending and each once, as uint8 RGB, the way up that a
player shows them, transparent pictures over white; or raises `VideoError`.
"""

import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import av
import av.filter
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from swd_video.data.colours import UNREADABLE, frame_to_rgb, picture_to_rgb, refuse_colours, state_colours
from swd_video.data.containers import DAMAGE_ADVICE, VideoError, open_container
from swd_video.data.probe import VideoFile


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
    video: VideoFile, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames by decord, which must be there and count as many as the file has."""
    decord = load_decord()
    if decord is None:
        raise VideoError(video.path, "decord is not installed here; pip install decord2, or use PyAV.")
    try:
        reader = decord.VideoReader(str(video.path), ctx=decord.cpu(0))
        if len(reader) != video.frames:
            raise VideoError(video.path, f"decord finds {len(reader)} frames where there are {video.frames}.")
        frames: NDArray[np.uint8] = reader.get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, RuntimeError, AssertionError, UnicodeError) as error:
        raise VideoError(video.path, f"decord fails: {str(error).splitlines()[0]}") from error
    return frames


def decode_with_pyav(video: VideoFile, indices: Sequence[int]) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames by PyAV, from the nearest key frame on where timestamps tell frames apart."""
    frames = np.empty((len(indices), video.height, video.width, 3), np.uint8)
    missing = set(range(len(indices)))
    with open_container(video.path) as container:
        stream = container.streams[video.stream_index]
        assert isinstance(stream, av.VideoStream)
        stream.thread_type = "AUTO"
        # A frame is told by its timestamp, else by its number from the start of the file.
        times: Sequence[int] = range(video.frames) if video.pts is None else video.pts
        # Deinterlacing looks at the frame before.
        first, last = times[max(0, indices[0] - video.interlaced)], times[indices[-1]]
        wanted = {times[index]: row for row, index in enumerate(indices)}
        # A seek may land past the first wanted frame (containers seek by decoding time): then start earlier,
        # at last from the very beginning of the file.
        before = video.keyframe_pts[: bisect.bisect_right(video.keyframe_pts, first)]
        for start in (*reversed(before[-3:]), None):
            if start is not None:
                container.seek(start, backward=True, any_frame=False, stream=stream)
            elif before:
                container.seek(0, backward=True, any_frame=False)
            landed_early = start is None
            for number, frame in enumerate(_frames(container, stream, video)):
                time = number if video.pts is None else frame.pts
                if time is None:
                    continue
                landed_early = landed_early or time <= first
                if time in wanted and landed_early:
                    frames[wanted[time]] = _picture(video, frame)
                    missing.discard(wanted[time])
                if time >= last or not landed_early:
                    break
            if landed_early:
                break
    if missing:
        first_missing = indices[min(missing)]
        raise VideoError(
            video.path,
            f"frame {first_missing} of {video.frames} (at {video.starts[first_missing]:.3f} s) cannot be "
            f"decoded. {DAMAGE_ADVICE}",
        )
    return frames


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, video: VideoFile
) -> Iterator[av.VideoFrame]:
    decoder: Any = stream.codec_context
    if video.alpha_decoder is not None:
        decoder = av.CodecContext.create(video.alpha_decoder, "r")
        decoder.extradata = stream.codec_context.extradata
    frames = (frame for packet in _sound(container.demux(stream)) for frame in decoder.decode(packet))
    return _deinterlaced(frames, stream) if video.interlaced else iter(frames)


def _sound(packets: Iterable[Any]) -> Iterator[Any]:
    """Packets that are flagged as damaged, as `VideoFile.damage` says of which frames that is true."""
    for packet in packets:
        packet.is_corrupt = False
        yield packet


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


def _picture(video: VideoFile, frame: av.VideoFrame) -> NDArray[np.uint8]:
    moment = f"the frame at {float(frame.time or 0):.3f} s"
    if frame.is_corrupt:
        raise VideoError(video.path, f"{moment} is damaged. {DAMAGE_ADVICE}")
    if frame.interlaced_frame and not video.interlaced:
        raise VideoError(
            video.path, f"{moment} is interlaced, the first one is not. Deinterlace the file first."
        )
    state_colours(frame, video.colours)
    refuse_colours(video.path, frame.color_trc, frame.color_primaries, frame.colorspace)
    picture = video.upright(frame_to_rgb(frame))
    if picture.shape[:2] != (video.height, video.width):
        raise VideoError(video.path, f"{moment} has another size than the first one. Cut the file in two.")
    return picture


def decode_with_pillow(
    video: VideoFile, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames of an animated WebP or AVIF by Pillow."""
    frames = np.empty((len(indices), video.height, video.width, 3), np.uint8)
    try:
        with Image.open(video.path) as image:
            for row, index in enumerate(indices):
                image.seek(index)
                frames[row] = picture_to_rgb(image)
    except UNREADABLE as error:
        raise VideoError(video.path, f"decoding fails: {error}") from error
    return frames
