"""What a video file holds: when each frame is shown, which way up, and which decoder may be trusted with it.

decord is fast, but gives other frames than FFmpeg's own rules do in cases that were found by comparing them:
rotated or mirrored tracks, edit lists, several video streams, GOPs whose frames refer across key frames
(wrong frames after a seek), transport streams and AVI (wrong or no frames), HEVC (fails), odd sizes with
subsampled chroma (other colours), transparency (ignored). Such files are told apart here, before decoding.
"""

import os
import stat
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MISSING_FRAME_ADVICE = "The file is damaged; re-encode it or drop it."

# Containers and codecs where one packet is one frame and its timestamp is when the frame is shown, so that
# the packets alone tell which frames there are. In all others the file is decoded once to find out.
_INDEXED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_INDEXED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1"}
_DECORD_CODECS = {"h264", "vp9", "av1"}
_DECORD_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv444p"}
# A container that states another rate than its frames have is believed up to this share of it.
_RATE_TOLERANCE = 0.01


class VideoError(ValueError):
    """A video file that cannot be read or written as asked.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds, as a player would show it.

    Attributes:
        frames: number of frames.
        height: rows of a picture, after rotation.
        width: columns of a picture, after rotation.
        fps: frames per second; the mean where the rate varies.
        seconds: from the first frame's appearance to the last one's end.
        codec: FFmpeg's name of it, for example "h264", "gif", "webp".
        rotation: degrees clockwise, 0, 90, 180 or 270, that stored pictures are turned by to be shown.
        pixel_aspect: width of a pixel over its height; 1 for square pixels.
    """

    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    codec: str
    rotation: int
    pixel_aspect: float = 1.0


@dataclass(frozen=True)
class Orientation:
    """How stored pictures become shown ones: transpose first, then flip."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def degrees(self) -> int:
        """The clockwise rotation in it; what remains is a mirroring from left to right."""
        if self.transpose:
            return 270 if self.flip_rows else 90
        return 180 if self.flip_rows else 0

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored picture (height, width, channels) into the shown one."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        if self.flip_rows:
            picture = picture[::-1]
        if self.flip_columns:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(picture)


@dataclass(frozen=True)
class VideoSource:
    """A probed file, ready for a decoder.

    Attributes:
        path: the file.
        info: what it holds.
        starts: second at which each frame appears; the first is 0.
        pts: timestamp of each frame in the stream's unit, where frames can be told apart by it; else None,
            and frames are counted from the start of the file.
        keyframe_pts: timestamps where decoding can start, ascending; empty without `pts`.
        orientation: how stored pictures are turned to be shown.
        has_alpha: pictures may be transparent; they are shown over white.
        stream_index: which stream of the container.
        decord_objection: why decord is not trusted with this file; None where it is.
    """

    path: Path
    info: VideoInfo
    starts: NDArray[np.float64]
    pts: tuple[int, ...] | None
    keyframe_pts: tuple[int, ...]
    orientation: Orientation
    has_alpha: bool
    stream_index: int
    decord_objection: str | None


@dataclass(frozen=True)
class _Packets:
    pts: tuple[int, ...]
    keyframe_pts: tuple[int, ...]
    last_duration: int
    has_discarded: bool
    has_open_gop: bool


def probe_source(path: str | os.PathLike[str]) -> VideoSource:
    """Find out what a file holds and how to read it; remembered while the file does not change.

    Raises:
        VideoError: if it is missing, no video, or cut short.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in its name
        raise VideoError(path, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        # To open a pipe is to wait for its writer.
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise VideoError(path, f"is {kind}, expected a file.")
    return _probe_unchanged(os.path.abspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _probe_unchanged(path: str, modified_ns: int, size: int) -> VideoSource:
    if size == 0:
        raise VideoError(path, "is empty.")
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _probe_webp(Path(path))
        _refuse_cut_mp4(Path(path), size)
        return _probe_container(Path(path))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be read as video: {describe(error)}") from error


def describe(error: Exception) -> str:
    """The gist of an FFmpeg or system error in one sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).rstrip(".") + "."


def _refuse_cut_mp4(path: Path, size: int) -> None:
    """FFmpeg reads a cut MP4 as far as it goes and says nothing, so its boxes are measured here."""
    with path.open("rb") as file:
        offset = 0
        while True:
            file.seek(offset)
            head = file.read(16)
            if len(head) < 8 or not head[4:8].isalnum() or (offset == 0 and head[4:8] != b"ftyp"):
                return
            (length,) = struct.unpack(">I", head[:4])
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack(">Q", head[8:16])
            if length < 8:
                return
            offset += length
            if head[4:8] in (b"mdat", b"moov", b"moof") and offset > size:
                raise VideoError(path, f"is cut short: it has {size} bytes and should have {offset}.")


def _probe_webp(path: Path) -> VideoSource:
    # PyAV's FFmpeg knows no animated WebP; Pillow does, and says how long a frame lasts once it is decoded.
    milliseconds = []
    try:
        with Image.open(path) as image:
            width, height = image.size
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                image.load()
                milliseconds.append(float(image.info.get("duration") or 0))
    except (UnidentifiedImageError, OSError, ValueError, EOFError) as error:
        raise VideoError(path, f"cannot be read as WebP: {error}") from error
    if len(milliseconds) > 1 and min(milliseconds) <= 0:
        milliseconds = [duration if duration > 0 else 100.0 for duration in milliseconds]
    ends = np.cumsum(milliseconds) / 1000
    seconds = float(ends[-1]) or 1.0
    info = VideoInfo(len(milliseconds), height, width, len(milliseconds) / seconds, seconds, "webp", 0)
    starts = np.concatenate([[0.0], ends[:-1]])
    return VideoSource(path, info, starts, None, (), Orientation(), True, 0, "decord reads no WebP")


def _probe_container(path: Path) -> VideoSource:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(path, "has no video stream.")
        assert isinstance(stream, av.VideoStream)
        # Read now: a stream of a closed container points nowhere.
        stream_index, num_streams = stream.index, len(container.streams.video)
        format_name, codec = container.format.name, stream.codec_context.codec.canonical_name
        rate, time_base = stream.average_rate, stream.time_base or Fraction(1, 1000)
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise VideoError(path, f"has no frame that can be decoded. {MISSING_FRAME_ADVICE}")
    packets = None
    if format_name in _INDEXED_FORMATS and codec in _INDEXED_CODECS:
        packets = _read_packets(path, stream_index, first.pts)
    if packets is not None:
        starts = np.array([float((pts - packets.pts[0]) * time_base) for pts in packets.pts])
        last = float(packets.last_duration * time_base)
    else:
        starts, last = _decode_starts(path, stream_index, rate)
    if last <= 0:
        last = float(1 / rate) if rate else (float(np.diff(starts).mean()) if len(starts) > 1 else 1.0)
    orientation = _orientation(path, first)
    has_alpha = any(component.is_alpha for component in first.format.components)
    height, width = first.height, first.width
    if orientation.transpose:
        height, width, aspect = width, height, 1 / aspect
    seconds = float(starts[-1]) + last
    fps = len(starts) / seconds
    if rate and abs(float(rate) - fps) <= _RATE_TOLERANCE * fps:
        fps = float(rate)
    info = VideoInfo(len(starts), height, width, fps, seconds, codec, orientation.degrees, aspect)
    objection = _decord_objection(packets, orientation, num_streams, has_alpha, codec, first)
    return VideoSource(
        path,
        info,
        starts,
        packets.pts if packets else None,
        packets.keyframe_pts if packets else (),
        orientation,
        has_alpha,
        stream_index,
        objection,
    )


def _read_packets(path: Path, stream_index: int, first_pts: int | None) -> _Packets | None:
    """The frames as the packets tell them; None where these do not tell."""
    pts: list[int] = []
    keyframe_pts: list[int] = []
    durations: dict[int, int] = {}
    has_discarded = has_open_gop = False
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams[stream_index]):
            if packet.size == 0:
                continue
            if packet.pts is None:
                return None
            if packet.is_keyframe:
                keyframe_pts.append(packet.pts)
            elif keyframe_pts and packet.pts < keyframe_pts[-1]:
                has_open_gop = True
            if packet.is_discard:
                has_discarded = True
                continue
            pts.append(packet.pts)
            durations[packet.pts] = packet.duration or 0
    # Frames before the first that decodes (a recording that starts inside a GOP) do not exist for us.
    shown = sorted(value for value in pts if first_pts is None or value >= first_pts)
    if not shown or len(set(shown)) != len(shown) or first_pts != shown[0]:
        return None
    return _Packets(
        tuple(shown), tuple(sorted(keyframe_pts)), durations[shown[-1]], has_discarded, has_open_gop
    )


def _decode_starts(path: Path, stream_index: int, rate: Fraction | None) -> tuple[NDArray[np.float64], float]:
    """Appearance of every frame and duration of the last, found by decoding the whole file."""
    times: list[float] = []
    last = 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams[stream_index]):
            assert isinstance(frame, av.VideoFrame)
            time_base = frame.time_base or Fraction(0)
            times.append(float(frame.pts * time_base) if frame.pts is not None else float("nan"))
            last = float((frame.duration or 0) * time_base)
    starts = np.array(times) - times[0]
    # AVI has no timestamps worth the name for reordered frames: there only the rate is known.
    if not np.all(np.diff(starts) > 0) or np.isnan(starts).any():
        if not rate:
            raise VideoError(path, "says neither when its frames are shown nor at which rate.")
        starts, last = np.arange(len(times)) / float(rate), float(1 / rate)
    return starts, last


def _orientation(path: Path, frame: av.VideoFrame) -> Orientation:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    # ISO 14496-12: shown x = a x + c y, shown y = b x + d y.
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
    if b == c == 0 and a and d:
        return Orientation(False, d < 0, a < 0)
    if a == d == 0 and b and c:
        return Orientation(True, b < 0, c < 0)
    raise VideoError(path, "is rotated by an angle that is no multiple of 90 degrees.")


def _decord_objection(
    packets: _Packets | None,
    orientation: Orientation,
    num_streams: int,
    has_alpha: bool,
    codec: str,
    frame: Any,
) -> str | None:
    subsampled = "444" not in frame.format.name
    objections = {
        "its timestamps do not tell its frames apart": packets is None,
        f"decord is not trusted with {codec}": codec not in _DECORD_CODECS,
        "it has transparency": has_alpha,
        f"decord is not trusted with {frame.format.name}": frame.format.name not in _DECORD_PIXEL_FORMATS,
        "it has an odd size and subsampled chroma": subsampled and bool(frame.width % 2 or frame.height % 2),
        "it is rotated or mirrored": orientation != Orientation(),
        "it has several video streams": num_streams > 1,
        "its edit list hides frames": packets is not None and packets.has_discarded,
        "its frames refer across key frames": packets is not None and packets.has_open_gop,
    }
    return next((reason for reason, holds in objections.items() if holds), None)
