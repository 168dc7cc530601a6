"""What a video file holds: when each frame is shown, which way up, and which decoder may be trusted with it.

decord is fast, but gives other frames than FFmpeg's own rules do in cases that were found by comparing them:
rotated or mirrored tracks, edit lists, several video streams, GOPs whose frames refer across key frames
(wrong frames after a seek), transport streams and AVI (wrong or no frames), HEVC (fails), odd sizes with
subsampled chroma (other colours), transparency, interlacing, wide gamuts and BT.709 that is not stated (ignored).
Such files are told apart here, before decoding.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from swd_video.data.colours import (
    UNREADABLE,
    UNSTATED,
    Colours,
    colour_matrix,
    has_alpha,
    has_wide_gamut,
    is_untagged_hd,
    picture_to_rgb,
    refuse_colours,
    state_colours,
)
from swd_video.data.containers import (
    DAMAGE_ADVICE,
    VideoError,
    check_file,
    describe,
    open_container,
    refuse_cut,
)
from swd_video.data.key_frames import is_key_frame

# Containers and codecs where one packet is one frame and its timestamp is when the frame is shown, so that
# the packets alone tell which frames there are. In all others the file is decoded once to find out.
_INDEXED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_INDEXED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1"}
_DECORD_CODECS = {"h264", "vp9", "av1"}
_DECORD_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv444p"}
# FFmpeg's own decoders of these leave out the transparency that WebM has beside the picture; these do not.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
BY_PILLOW = ("webp", "avif")
"""Codecs that Pillow reads here."""

_PILLOW_BRANDS = {b"avif", b"avis"}
_COUNTED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "avi", "ivf"}
# What a GIF or WebP asks for up to this, browsers show for a tenth of a second.
_HASTY_SECONDS, _UNHURRIED_SECONDS = 0.0105, 0.1
_PROGRESSIVE = 1
_INTERLACED = {2, 3, 4, 5}
# Programs write right angles that are off in the last bits.
_RIGHT_ANGLE_DEGREES = 0.1
# A container that states another rate than its frames have is believed up to this share of it.
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class VideoFile:
    """What a file holds, as a player would show it, and how a decoder is to read it.

    Attributes:
        path: the file.
        codec: FFmpeg's name of it, for example "h264", "gif", "webp".
        height: rows of a picture, after rotation.
        width: columns of a picture, after rotation.
        fps: frames per second; the mean where the rate varies.
        seconds: from the first frame's appearance to the last one's end. A last frame for which the file gives less
            than half of the shortest interval before (writers that do not know its length put one tick) lasts as long
            as that interval.
        starts: second at which each frame appears; the first is 0.
        pixel_aspect: width of a pixel over its height; 1 for square pixels.
        rotation: degrees clockwise, 0, 90, 180 or 270, that stored pictures are turned by to be shown.
        mirrored: whether they are mirrored from left to right after that.
        pts: timestamp of each frame in the stream's unit, where frames can be told apart by it; else None,
            and frames are counted from the start of the file.
        keyframe_pts: timestamps where decoding can start, ascending; empty without `pts`.
        stream_index: which stream of the container.
        colours: those of frames that do not state theirs.
        interlaced: pictures may hold two moments, and are deinterlaced.
        alpha_decoder: the decoder that reads transparency beside the picture; None for the usual one.
        decord_objection: why decord is not trusted with this file; None where it is.
    """

    path: Path
    codec: str
    height: int
    width: int
    fps: float
    seconds: float
    starts: NDArray[np.float64]
    pixel_aspect: float = 1.0
    rotation: int = 0
    mirrored: bool = False
    pts: tuple[int, ...] | None = None
    keyframe_pts: tuple[int, ...] = ()
    stream_index: int = 0
    colours: Colours = UNSTATED
    interlaced: bool = False
    alpha_decoder: str | None = None
    decord_objection: str | None = None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.starts)

    def upright(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored picture (height, width, channels) into the shown one."""
        picture = np.rot90(picture, -self.rotation // 90)
        return np.ascontiguousarray(picture[:, ::-1] if self.mirrored else picture)


@dataclass(frozen=True)
class _Timing:
    starts: NDArray[np.float64]
    last_seconds: float
    pts: tuple[int, ...] | None = None
    keyframe_pts: tuple[int, ...] = ()
    decord_objection: str | None = None


def probe_video(path: str | os.PathLike[str]) -> VideoFile:
    """Find out what a file holds, mostly without decoding it; remembered while the file does not change.

    Raises:
        VideoError: if it is missing, no video, or cut short.
    """
    status = check_file(path)
    return _probe_unchanged(os.path.abspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _probe_unchanged(path: str, modified_ns: int, size: int) -> VideoFile:
    try:
        refuse_cut(Path(path), size)
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as error:
        raise VideoError(path, f"cannot be read: {describe(error)}") from error
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return _probe_pictures(Path(path), "WebP")
    if head[4:8] == b"ftyp" and head[8:] in _PILLOW_BRANDS:
        return _probe_pictures(Path(path), "AVIF")
    return _probe_container(Path(path))


def check_avif(path: Path) -> None:
    """Look at what Pillow does not tell of an AVIF file.

    Raises:
        VideoError: if Pillow lacks AVIF here, or the colours are HDR's or not understood.
    """
    if not features.check("avif"):
        raise VideoError(path, "is AVIF, which this Pillow cannot read. Install one that can.")
    with open_container(path) as container:
        stream = container.streams.best("video")
        context = None if stream is None else stream.codec_context
        if isinstance(context, av.VideoCodecContext):
            refuse_colours(path, context.color_trc, context.color_primaries)


def _probe_pictures(path: Path, name: str) -> VideoFile:
    # FFmpeg knows no animated WebP and no transparent AVIF; Pillow does, and says how long a frame lasts once it is
    # decoded.
    milliseconds = []
    if name == "AVIF":
        check_avif(path)
    try:
        with Image.open(path) as image:
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                image.load()
                milliseconds.append(float(image.info.get("duration") or 0))
            height, width = picture_to_rgb(image).shape[:2]
    except UNREADABLE as error:
        raise VideoError(path, f"cannot be read as {name}: {describe(error)}") from error
    ends = np.cumsum(_shown_seconds(np.array(milliseconds) / 1000))
    seconds = float(ends[-1]) or 1.0
    return VideoFile(
        path,
        name.lower(),
        height,
        width,
        len(ends) / seconds,
        seconds,
        np.concatenate([[0.0], ends[:-1]]),
        decord_objection="decord reads no WebP and no AVIF",
    )


def _shown_seconds(durations: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many seconds browsers show the pictures of an animation; for the hasty ones they take their time."""
    hasty = durations <= _HASTY_SECONDS if len(durations) > 1 else False
    return np.where(hasty, _UNHURRIED_SECONDS, durations)


def _probe_container(path: Path) -> VideoFile:
    with open_container(path) as container:
        stream = container.streams.best("video")
        # The cover of a song is a video stream, too.
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise VideoError(path, "has no video stream.")
        context = stream.codec_context
        if context is None:
            raise VideoError(path, "has a codec that this FFmpeg does not know. Re-encode it.")
        assert isinstance(stream, av.VideoStream) and isinstance(context, av.VideoCodecContext)
        # Read now: a stream of a closed container points nowhere.
        stream_index, num_streams = stream.index, len(container.streams.video)
        format_name, codec = container.format.name, context.codec.canonical_name
        rate, time_base = stream.average_rate, stream.time_base or Fraction(1, 1000)
        promised = stream.frames if format_name in _COUNTED_FORMATS else 0
        if format_name == "mxf" and rate:
            promised = int((stream.duration or 0) * time_base * rate)
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        # Read before the first picture: most decoders forget what their stream itself does not say.
        stated = Colours(context.color_trc, context.color_primaries, context.colorspace)
        alpha_decoder = _ALPHA_DECODERS.get(codec) if stream.metadata.get("alpha_mode") == "1" else None
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise VideoError(path, f"has no frame that can be decoded. {DAMAGE_ADVICE}")
        field_order = context.field_order
    own_matrix = first.colorspace
    state_colours(first, stated)
    colours = stated._replace(matrix=colour_matrix(path, first))
    timing = None
    if format_name in _INDEXED_FORMATS and codec in _INDEXED_CODECS:
        timing = _read_packets(path, stream_index, first.pts, promised)
    timing = timing or _decode_all(path, stream_index, rate, promised)
    if codec == "gif":
        shown = _shown_seconds(np.append(np.diff(timing.starts), timing.last_seconds))
        timing = replace(timing, starts=np.cumsum(shown) - shown, last_seconds=float(shown[-1]))
    seconds, fps = _length(timing, rate)
    rotation, mirrored = _orientation(path, first)
    height, width = first.height, first.width
    if rotation in (90, 270):
        height, width, aspect = width, height, 1 / aspect
    video = VideoFile(
        path,
        codec,
        height,
        width,
        fps,
        seconds,
        timing.starts,
        pixel_aspect=aspect,
        rotation=rotation,
        mirrored=mirrored,
        pts=timing.pts,
        keyframe_pts=timing.keyframe_pts,
        stream_index=stream_index,
        colours=colours,
        interlaced=bool(first.interlaced_frame) or field_order in _INTERLACED,
        alpha_decoder=alpha_decoder,
    )
    may_be_interlaced = video.interlaced or (codec == "h264" and field_order != _PROGRESSIVE)
    objection = _decord_objection(video, num_streams, first, own_matrix, may_be_interlaced)
    return replace(video, decord_objection=objection or timing.decord_objection)


def _length(timing: _Timing, rate: Fraction | None) -> tuple[float, float]:
    """Seconds, and frames per second."""
    starts, last = timing.starts, timing.last_seconds
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


def _check_packets(
    path: Path, container: av.container.InputContainer, stream: Any, promised: int
) -> Iterator[Any]:
    """Pass on the packets of a stream up to the first that is cut; in the end there must be as many as promised."""
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            moment = f" at {float(packet.pts * packet.time_base):.3f} s" if packet.pts is not None else ""
            raise VideoError(path, f"is cut short or damaged{moment}. {DAMAGE_ADVICE}")
        count += packet.size > 0 or packet.pts is not None
        yield packet
    if count < promised and (count := _count_chunks(path, stream.index)) < promised:
        raise VideoError(path, f"promises {promised} frames and holds {count}. {DAMAGE_ADVICE}")


def _count_chunks(path: Path, stream_index: int) -> int:
    """How many frames a container counts: also those that its edit list hides and, in AVI, those that were dropped."""
    count = 0
    with open_container(path, ignore_editlist="1") as container:
        for packet in container.demux(container.streams[stream_index]):
            if packet.size:
                # AVI has an empty chunk for a frame that was dropped. FFmpeg skips it, and counts it as time.
                count = 1 + ((packet.dts or 0) if container.format.name == "avi" else count)
    return count


def _read_packets(path: Path, stream_index: int, first_pts: int | None, promised: int) -> _Timing | None:
    """The frames as the packets tell them; None where these do not tell."""
    pts: list[int] = []
    keyframe_pts: list[int] = []
    durations: dict[int, int] = {}
    objection = None
    with open_container(path) as container:
        stream = container.streams[stream_index]
        time_base = stream.time_base or Fraction(1, 1000)
        for packet in _check_packets(path, container, stream, promised):
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
    shown = sorted(value for value in pts if first_pts is None or value >= first_pts)
    if not shown or len(set(shown)) != len(shown) or first_pts != shown[0]:
        return None
    starts = np.array([float((value - shown[0]) * time_base) for value in shown])
    last = float(durations[shown[-1]] * time_base)
    return _Timing(starts, last, tuple(shown), tuple(sorted(keyframe_pts)), objection)


def _decode_all(path: Path, stream_index: int, rate: Fraction | None, promised: int) -> _Timing:
    """The frames as they come when the whole file is decoded."""
    times: list[float] = []
    last = 0.0
    cut = False
    with open_container(path) as container:
        for packet in _check_packets(path, container, container.streams[stream_index], promised):
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                time_base = frame.time_base or Fraction(0)
                times.append(float(frame.pts * time_base) if frame.pts is not None else float("nan"))
                last = float((frame.duration or 0) * time_base)
                cut = frame.is_corrupt
    if cut:
        raise VideoError(path, f"is cut short: its last frame is damaged. {DAMAGE_ADVICE}")
    starts = np.array(times) - times[0]
    # AVI has no timestamps worth the name for reordered frames: there only the rate is known.
    if not np.all(np.diff(starts) > 0) or np.isnan(starts).any():
        if not rate:
            raise VideoError(path, "says neither when its frames are shown nor at which rate.")
        if len(times) < promised:
            raise VideoError(path, "leaves frames out, and does not say when others are shown. Re-encode it.")
        starts, last = np.arange(len(times)) / float(rate), float(1 / rate)
    return _Timing(starts, last)


def _orientation(path: Path, frame: av.VideoFrame) -> tuple[int, bool]:
    """By how many degrees clockwise stored pictures are turned, and whether they are mirrored then."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    # ISO 14496-12: shown x = a x + c y, shown y = b x + d y. Mirroring changes the signs of a and c.
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
    if not (a or b or c or d):
        return 0, False
    determinant = a * d - b * c
    side = -1 if determinant < 0 else 1
    degrees = np.degrees(np.arctan2([b, -side * c], [d, side * a]))
    turns = np.rint(degrees / 90)
    if not determinant or np.abs(degrees - 90 * turns).max() > _RIGHT_ANGLE_DEGREES or np.ptp(turns % 4):
        raise VideoError(path, "is rotated by an angle that is no multiple of 90 degrees.")
    return int(turns[0]) % 4 * 90, determinant < 0


def _decord_objection(
    video: VideoFile, num_streams: int, frame: av.VideoFrame, own_matrix: int, may_be_interlaced: bool
) -> str | None:
    subsampled = "444" not in frame.format.name
    objections = {
        "its timestamps do not tell its frames apart": video.pts is None,
        f"decord is not trusted with {video.codec}": video.codec not in _DECORD_CODECS,
        "it has transparency": has_alpha(frame) or video.alpha_decoder is not None,
        f"decord is not trusted with {frame.format.name}": frame.format.name not in _DECORD_PIXEL_FORMATS,
        "it does not say that its colours are BT.709": is_untagged_hd(frame),
        "only its container says its colours": frame.colorspace != own_matrix,
        "its primaries are not those of BT.709": has_wide_gamut(frame),
        "it has an odd size and subsampled chroma": subsampled and bool(frame.width % 2 or frame.height % 2),
        "it is rotated or mirrored": bool(video.rotation) or video.mirrored,
        "it has several video streams": num_streams > 1,
        "decord would read a pattern into its name": any(mark in video.path.name for mark in "%*?[{"),
        "it is interlaced, or may be": may_be_interlaced,
    }
    return next((reason for reason, holds in objections.items() if holds), None)
