"""What a video file holds: when each frame is shown, which way up, and which decoder may be trusted with it.

decord is fast, but gives other frames than FFmpeg's own rules do in cases that were found by comparing them:
rotated or mirrored tracks, edit lists, several video streams, GOPs whose frames refer across key frames
(wrong frames after a seek), transport streams and AVI (wrong or no frames), HEVC (fails), odd sizes with
subsampled chroma (other colours), transparency, interlacing, wide gamuts and BT.709 that is not stated (ignored).
Such files are told apart here, before decoding.
"""

import os
import struct
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
from swd_video.data.timing import StreamFacts, time_frames

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
        damage: stretches of frames that are not what they should be, each from a number to before another.
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
    damage: tuple[tuple[int, int], ...] = ()
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
    timing = time_frames(StreamFacts(path, stream_index, format_name, codec, rate, first.pts, promised))
    if codec == "gif":
        shown = _shown_seconds(np.append(np.diff(timing.starts), timing.last_seconds))
        timing = replace(timing, starts=np.cumsum(shown) - shown, last_seconds=float(shown[-1]))
    seconds, fps = timing.length(rate)
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
        damage=timing.damage,
        stream_index=stream_index,
        colours=colours,
        interlaced=bool(first.interlaced_frame) or field_order in _INTERLACED,
        alpha_decoder=alpha_decoder,
    )
    may_be_interlaced = video.interlaced or (codec == "h264" and field_order != _PROGRESSIVE)
    objection = _decord_objection(video, num_streams, first, own_matrix, may_be_interlaced)
    return replace(video, decord_objection=objection or timing.decord_objection)


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
