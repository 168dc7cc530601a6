"""When each frame of a file is shown, where decoding may start, and which frames came through damaged.

Where one packet is one frame and says when it is shown, the packets tell. All other files are decoded once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from swd_video.data.containers import DAMAGE_ADVICE, VideoError, open_container
from swd_video.data.key_frames import is_key_frame

# Containers that say of every packet when it is shown, and find the one that they are asked for.
_INDEXED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# Codecs of which one packet is one frame.
_INDEXED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1"}
# A lost packet ends no broadcast, and where two recordings meet none may be lost.
_LOSSY_FORMATS = {"mpegts"}
# A container that states another rate than its frames have is believed up to this share of it.
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class StreamFacts:
    """A video stream, and what its container says of it.

    Attributes:
        path: the file.
        index: which stream.
        format_name: FFmpeg's name of the container.
        codec: FFmpeg's name of the codec.
        rate: frames per second; None where it does not say.
        first_pts: timestamp of the first frame that decodes.
        promised: how many frames there should be; 0 where it does not say.
    """

    path: Path
    index: int
    format_name: str
    codec: str
    rate: Fraction | None
    first_pts: int | None
    promised: int


@dataclass(frozen=True)
class Timing:
    """Frames in the order in which they are shown; `VideoFile` describes the fields of the same names."""

    starts: NDArray[np.float64]
    last_seconds: float
    pts: tuple[int, ...] | None = None
    keyframe_pts: tuple[int, ...] = ()
    damage: tuple[tuple[int, int], ...] = ()
    decord_objection: str | None = None

    def length(self, rate: Fraction | None) -> tuple[float, float]:
        """Seconds, and frames per second, given the rate that the container states."""
        starts, last = self.starts, self.last_seconds
        if last <= 0 and (rate or len(starts) == 1):
            last = float(1 / rate) if rate else 1.0
        if len(starts) > 1:
            shortest = float(np.diff(starts).min())
            last = shortest if last < shortest / 2 else last
        seconds = float(starts[-1]) + last
        fps = len(starts) / seconds
        if rate and abs(float(rate) - fps) <= _RATE_TOLERANCE * fps:
            fps = float(rate)
        return seconds, fps


def time_frames(stream: StreamFacts) -> Timing:
    """Find out when each frame is shown, from the packets if they tell, else by decoding all.

    Raises:
        VideoError: if the file is cut short or damaged, or does not say when its frames are shown.
    """
    timing = None
    if stream.format_name in _INDEXED_FORMATS and stream.codec in _INDEXED_CODECS:
        timing = _read_packets(stream)
    return timing or _decode_all(stream)


def _packets(facts: StreamFacts, container: av.container.InputContainer) -> Iterator[Any]:
    """The packets of a stream up to the first that is cut; in the end there must be as many as promised."""
    count = 0
    stream = container.streams[facts.index]
    # By slices, H.264's decoder does not look for damage.
    stream.codec_context.thread_type = "AUTO"
    for packet in container.demux(stream):
        if packet.is_corrupt and facts.format_name not in _LOSSY_FORMATS:
            moment = f" at {float(packet.pts * packet.time_base):.3f} s" if packet.pts is not None else ""
            raise VideoError(facts.path, f"is cut short or damaged{moment}. {DAMAGE_ADVICE}")
        count += packet.size > 0 or packet.pts is not None
        yield packet
    if count < facts.promised and (count := _count_chunks(facts)) < facts.promised:
        raise VideoError(facts.path, f"promises {facts.promised} frames and holds {count}. {DAMAGE_ADVICE}")


def _count_chunks(facts: StreamFacts) -> int:
    """How many frames a container counts: also those that its edit list hides and, in AVI, those that were dropped."""
    count = 0
    with open_container(facts.path, ignore_editlist="1") as container:
        for packet in container.demux(container.streams[facts.index]):
            if packet.size:
                # AVI has an empty chunk for a frame that was dropped. FFmpeg skips it, and counts it as time.
                count = 1 + ((packet.dts or 0) if facts.format_name == "avi" else count)
    return count


def _read_packets(facts: StreamFacts) -> Timing | None:
    """The frames as the packets tell them; None where these do not tell."""
    pts: list[int] = []
    keyframe_pts: list[int] = []
    durations: dict[int, int] = {}
    objection = None
    with open_container(facts.path) as container:
        time_base = container.streams[facts.index].time_base or Fraction(1, 1000)
        for packet in _packets(facts, container):
            if packet.size == 0:
                continue
            if packet.pts is None:
                return None
            if is_key_frame(packet):
                keyframe_pts.append(packet.pts)
            elif packet.is_keyframe:
                objection = objection or "its pictures are refreshed part by part"
            elif keyframe_pts and packet.pts < keyframe_pts[-1]:
                objection = objection or "its frames refer across key frames"
            if packet.is_discard:
                objection = "its edit list hides frames"
                continue
            pts.append(packet.pts)
            durations[packet.pts] = packet.duration or 0
    # Frames before the first that decodes (a recording that starts inside a GOP) do not exist for us.
    shown = sorted(value for value in pts if facts.first_pts is None or value >= facts.first_pts)
    if not shown or len(set(shown)) != len(shown) or facts.first_pts != shown[0]:
        return None
    starts = np.array([float((value - shown[0]) * time_base) for value in shown])
    last = float(durations[shown[-1]] * time_base)
    return Timing(starts, last, tuple(shown), tuple(sorted(keyframe_pts)), decord_objection=objection)


@dataclass
class _Decoded:
    """What decoding a whole file brought to light: frames as they are shown, packets as they are stored."""

    pts: list[int | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_damaged: list[bool] = field(default_factory=list)
    last_seconds: float = 0.0
    packet_pts: list[int | None] = field(default_factory=list)
    packet_is_entry: list[bool] = field(default_factory=list)
    packet_is_key: list[bool] = field(default_factory=list)
    packet_is_lossy: list[bool] = field(default_factory=list)


def _decode(facts: StreamFacts) -> _Decoded:
    decoded = _Decoded()
    with open_container(facts.path) as container:
        for packet in _packets(facts, container):
            if packet.size:
                decoded.packet_pts.append(packet.pts)
                decoded.packet_is_entry.append(packet.is_keyframe)
                decoded.packet_is_key.append(is_key_frame(packet))
                decoded.packet_is_lossy.append(packet.is_corrupt)
            packet.is_corrupt = False  # so that frames say what their decoder thinks
            for frame in packet.decode():
                time_base = frame.time_base or Fraction(0)
                decoded.pts.append(frame.pts)
                decoded.times.append(float("nan") if frame.pts is None else float(frame.pts * time_base))
                decoded.is_key.append(frame.key_frame)
                decoded.is_damaged.append(frame.is_corrupt)
                decoded.last_seconds = float((frame.duration or 0) * time_base)
    return decoded


def _decode_all(facts: StreamFacts) -> Timing:
    """The frames as they come when the whole file is decoded."""
    decoded = _decode(facts)
    if decoded.is_damaged[-1]:
        raise VideoError(facts.path, f"is cut short: its last frame is damaged. {DAMAGE_ADVICE}")
    objection = "only decoding tells when its frames are shown"
    starts = np.array(decoded.times) - decoded.times[0]
    if np.all(np.diff(starts) > 0) and not np.isnan(starts).any():
        pts = tuple(value for value in decoded.pts if value is not None)
        return Timing(
            starts, decoded.last_seconds, pts, _entries(facts, decoded), _damage(decoded), objection
        )
    # AVI has no timestamps worth the name for reordered frames: there only the rate is known.
    if not facts.rate:
        raise VideoError(facts.path, "says neither when its frames are shown nor at which rate.")
    if any(decoded.packet_is_lossy):
        raise VideoError(facts.path, f"is damaged, or its parts do not follow each other. {DAMAGE_ADVICE}")
    if len(starts) < facts.promised:
        raise VideoError(
            facts.path, "leaves frames out, and does not say when others are shown. Re-encode it."
        )
    rate = float(facts.rate)
    return Timing(np.arange(len(starts)) / rate, 1 / rate, decord_objection=objection)


def _entries(facts: StreamFacts, decoded: _Decoded) -> tuple[int, ...]:
    """Where decoding may start: where the container seeks to, if it is right about each of them."""
    keys = {pts for pts, is_key in zip(decoded.pts, decoded.is_key, strict=True) if is_key}
    packets = zip(decoded.packet_pts, decoded.packet_is_entry, strict=True)
    entries = {pts for pts, is_entry in packets if is_entry}
    if facts.format_name not in _INDEXED_FORMATS or not entries <= keys:
        return ()
    return tuple(sorted(pts for pts in entries if pts is not None))


def _damage(decoded: _Decoded) -> tuple[tuple[int, int], ...]:
    """From the key frame before to the key frame after each frame that a loss reached: others may refer to it."""
    losses = np.flatnonzero(decoded.packet_is_lossy)
    if len(losses) == 0:
        return ()
    reached = {number for number, is_damaged in enumerate(decoded.is_damaged) if is_damaged}
    keys, pts = np.flatnonzero(decoded.is_key), np.array(decoded.pts, np.int64)
    for loss in losses:
        # FFmpeg flags the packet before the one that lost something, or before the one behind which something was lost.
        # Where the next is a key frame two recordings meet, and all there is whole as far as its decoder can tell.
        if decoded.packet_is_key[loss + 1 : loss + 3] != [False, True]:
            for lossy in decoded.packet_pts[loss : loss + 2]:
                number = 0 if lossy is None else int(np.searchsorted(pts, lossy, side="right")) - 1
                reached.add(max(0, number))
    stretches: list[tuple[int, int]] = []
    for number in sorted(reached):
        first = int(keys[keys < number].max(initial=0))
        stop = int(keys[keys > number].min(initial=len(pts)))
        if stretches and first <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(stop, stretches[-1][1]))
        else:
            stretches.append((first, stop))
    return tuple(stretches)
