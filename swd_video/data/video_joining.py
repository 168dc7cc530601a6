"""Join clips into one MP4: what is only cut keeps its packets, so nothing is encoded twice that need not be.

A range of frames can be copied where it begins with a keyframe and where the packets before its end hold just the
frames before its end: then no frame in it was predicted from one outside. What is left over is encoded by the encoder
that writes clips, with the same parameter sets, so that one decoder reads all of it.
"""

import heapq
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from jaxtyping import UInt8

from swd_video.data.containers import VideoError, check_file, describe, open_container, refuse_cut
from swd_video.data.sound import SOUND_RATE, read_sound
from swd_video.data.video_writing import check_mp4, encode_video, open_mp4
from swd_video.files import whole_file

Pictures: TypeAlias = "Iterable[UInt8[np.ndarray, 'height width 3']]"

_CODEC = "h264"
# How many frames the encoder of clips decodes ahead of what it shows.
_DELAY = 2


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a clip, in the order in which they are decoded.

    Attributes:
        path: The file.
        width: Of its pictures, in pixels.
        height: Likewise.
        fps: Frames per second, exactly.
        parameter_sets: What a decoder must know before the first packet; clips that share it can follow each other.
            Empty where packets cannot be copied, as of other codecs or of frames that come at uneven times.
        numbers: The frame that each packet holds, counted in the order in which they are shown.
        keys: Whether decoding can begin with a packet.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    parameter_sets: bytes
    numbers: tuple[int, ...]
    keys: tuple[bool, ...]

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return len(self.numbers)

    def copyable(self, start: int, stop: int) -> tuple[int, int]:
        """The longest range of frames inside [start, stop) whose packets can be copied, maybe an empty one."""
        highest = itertools.accumulate(self.numbers, max, initial=-1)
        whole = [count for count, number in enumerate(highest) if number == count - 1]
        # Where groups of pictures are open, what is shown before a keyframe may follow it in the file.
        keys = (at for at in whole if start <= at < stop and self.keys[at] and self.numbers[at] == at)
        begin = next(keys, stop)
        end = max((at for at in whole if begin <= at <= stop), default=begin)
        return (begin, end) if begin < end else (stop, stop)


def index_packets(path: Path) -> PacketIndex:
    """Look at the packets of a clip; none is decoded.

    Raises:
        VideoError: if the file cannot be read, is cut short or holds no pictures.
    """
    refuse_cut(path, check_file(path).st_size)
    with open_container(path) as container:
        if not container.streams.video:
            raise VideoError(path, "has no pictures.")
        stream = container.streams.video[0]
        packets = list(_packets_in(container))
        rate, base = stream.average_rate, stream.time_base
        size = stream.codec_context.width, stream.codec_context.height
        extra, codec = stream.codec_context.extradata, stream.codec_context.name
    if not packets or not rate or not base:
        raise VideoError(path, "has no pictures.")
    times = [packet.pts for packet in packets]
    number = {time: index for index, time in enumerate(sorted(time for time in times if time is not None))}
    step = 1 / (rate * base)
    even = len(number) == len(packets) and all(time == index * step for time, index in number.items())
    numbers = tuple(number[time] for time in times) if even else tuple(range(len(packets)))  # type: ignore[index]
    late = max(index - shown for index, shown in enumerate(numbers))
    copied = even and codec == _CODEC and late <= _DELAY
    keys = tuple(bool(packet.is_keyframe) for packet in packets)
    return PacketIndex(path, *size, Fraction(rate), bytes(extra or b"") if copied else b"", numbers, keys)


def parameter_sets(size: tuple[int, int], fps: Fraction) -> bytes:
    """What `PacketIndex.parameter_sets` of a clip is that is written here, of this height, width and rate."""
    with av.open(io.BytesIO(_encode_one(*size, fps))) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


@dataclass(frozen=True)
class Copied:
    """Frames of a clip whose packets are taken as they are: [start, stop), as `PacketIndex.copyable` gives them."""

    clip: PacketIndex
    start: int
    stop: int


@dataclass(frozen=True)
class Drawn:
    """Frames to be encoded, at least one, made when their turn comes."""

    pictures: Pictures


@dataclass(frozen=True)
class Sound:
    """What is heard: a file from its beginning, as long as the pictures last; silence where it ends before.

    Attributes:
        path: The file.
        seconds: Of the pictures.
        fades: Whether it is to fade out, as one that goes on beyond them should.
    """

    path: Path
    seconds: Fraction
    fades: bool


_Packet: TypeAlias = "av.Packet[Any]"
_Timed: TypeAlias = tuple[Fraction, int, _Packet]


def join_video(
    path: Path,
    pieces: Iterable[Copied | Drawn],
    size: tuple[int, int],
    fps: Fraction,
    *,
    sound: Sound | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write an MP4 of pieces that follow each other; index at the front, the same bytes for the same pieces.

    One piece at a time is in memory.

    Pieces that are copied have the `parameter_sets` of this size (height and width) and rate; sound is laid under as
    AAC in stereo.

    Returns:
        How many frames it has.

    Raises:
        VideoError: if a piece or the sound cannot be read, or size or metadata are such as no MP4 has.
        OSError: if the file cannot be written.
    """
    check_mp4(path, size, metadata or {})
    model = io.BytesIO(_encode_one(*size, fps))
    try:
        with (
            whole_file(path) as draft,
            av.open(model) as template,
            open_mp4(draft, metadata or {}) as container,
        ):
            base = template.streams.video[0].time_base
            assert base is not None
            pictures = container.add_stream_from_template(template.streams.video[0])
            pictures.time_base = base
            tracks: list[Iterator[_Timed]] = [_picture_packets(pictures, pieces, fps, base)]
            if sound is not None:
                voice = container.add_stream("aac", rate=SOUND_RATE, layout="stereo")
                tracks.append(_sound_packets(voice, sound))
            count = 0
            for _, track, packet in heapq.merge(*tracks, key=lambda entry: entry[:2]):
                container.mux(packet)
                count += track == 0
    except av.FFmpegError as error:
        raise OSError(f"{path}: cannot be written: {describe(error)}") from error
    return count


def _picture_packets(
    stream: av.VideoStream, pieces: Iterable[Copied | Drawn], fps: Fraction, base: Fraction
) -> Iterator[_Timed]:
    frame = 1 / (fps * base)
    count = 0
    for piece in pieces:
        first = count
        for number, packet in _packets_of(piece, fps):
            packet.stream = stream
            packet.time_base = base
            packet.pts, packet.dts = round((first + number) * frame), round((count - _DELAY) * frame)
            packet.duration = round(frame)
            yield Fraction(count) / fps, 0, packet
            count += 1


def _packets_of(piece: Copied | Drawn, fps: Fraction) -> Iterator[tuple[int, _Packet]]:
    """Packets with the number of their frame, counted from the first one of the piece."""
    if isinstance(piece, Copied):
        with open_container(piece.clip.path) as container:
            numbers = piece.clip.numbers[: piece.stop]
            for number, packet in zip(numbers, _packets_in(container), strict=False):
                if number >= piece.start:
                    yield number - piece.start, packet
        return
    with av.open(io.BytesIO(encode_video(piece.pictures, fps)), "r") as container:
        frame = 1 / (fps * container.streams.video[0].time_base)  # type: ignore[operator]
        for packet in _packets_in(container):
            assert packet.pts is not None
            yield round(packet.pts / frame), packet


def _packets_in(container: av.container.InputContainer) -> Iterator[_Packet]:
    return (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _sound_packets(stream: av.AudioStream, sound: Sound) -> Iterator[_Timed]:
    samples = round(sound.seconds * SOUND_RATE)
    at = 0
    for block in read_sound(sound.path, samples, fades=sound.fades):
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, at, Fraction(1, SOUND_RATE)
        for packet in stream.encode(frame):
            yield Fraction(at, SOUND_RATE), 1, packet
        at += block.shape[1]
    for packet in stream.encode(None):
        yield Fraction(at, SOUND_RATE), 1, packet


def _encode_one(height: int, width: int, fps: Fraction) -> bytes:
    return encode_video([np.zeros((height, width, 3), np.uint8)], fps)
