"""Write clips: H.264 that plays everywhere, and animated previews.

Files appear under their name only when they are whole.
"""

import io
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from swd_video.data.containers import VideoError, check_file, describe, open_container
from swd_video.files import whole_file

# What the container itself puts beside our metadata.
_CONTAINER_KEYS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_BT709 = 1
_CRF = 16
_GIF_FPS = 50
_MIN_FPS = 0.001
_LIMITED_RANGE = 1

Frames: TypeAlias = "UInt8[np.ndarray, 'frames height width 3'] | FrameSpool"


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    fps: int | float,
    *,
    metadata: Mapping[str, str] | None = None,
    crf: int | None = _CRF,
) -> None:
    """Write an MP4 that plays everywhere: H.264, yuv420p, BT.709, index at the front.

    The same frames give the same bytes: one encoder thread, no dates, and none of the routines of x264 whose
    results depend on the processor (those for AVX-512 differ even from run to run).

    Args:
        path: the file; its folder must exist.
        frames: RGB pictures of even height and width, taken one by one.
        fps: frames per second.
        metadata: text stored in the file, for example the prompt; any Unicode text without a NUL, where MP4 would
            end it; an empty one is left out.
        crf: x264's constant rate factor, 0 to 51; None keeps every value, as RGB, which browsers do not play.

    Raises:
        VideoError: if the size is odd, a number is out of range, metadata cannot be kept, there is nothing to write,
            or writing fails.
    """
    pictures = iter(frames)
    first = next(pictures, None)
    _check(path, 0 if first is None else 1, fps)
    assert first is not None
    if crf is not None and not 0 <= crf <= 51:
        raise VideoError(path, f"got crf {crf}, expected 0 to 51.")
    size = first.shape[0], first.shape[1]
    check_mp4(path, size, metadata or {})
    with _whole_file(path) as draft, open_mp4(draft, metadata or {}) as container:
        _encode(container, size, itertools.chain([first], pictures), fps, crf)


def encode_video(frames: Iterable[UInt8[np.ndarray, "height width 3"]], fps: int | float | Fraction) -> bytes:
    """The bytes of an MP4 as `write_video` writes it, without metadata: a part of a longer one."""
    pictures = iter(frames)
    first = next(pictures)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        _encode(container, first.shape[:2], itertools.chain([first], pictures), fps, _CRF)
    return buffer.getvalue()


def check_mp4(path: str | os.PathLike[str], size: tuple[int, int], metadata: Mapping[str, str]) -> None:
    """Refuse a size, height and width, and texts that an MP4 cannot have. Raises `VideoError`."""
    height, width = size
    if height % 2 or width % 2:
        raise VideoError(
            path,
            f"got {width}x{height} pictures, expected an even width and height for H.264 yuv420p. Crop to "
            f"{width - width % 2}x{height - height % 2}.",
        )
    for key, text in metadata.items():
        if key.lower() in _CONTAINER_KEYS:
            raise VideoError(path, f"MP4 has its own text under the name {key!r}. Give yours another name.")
        # C ends a text at a NUL; half of a surrogate pair is no text.
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in key + text):
            raise VideoError(
                path, f"MP4 cannot keep a NUL or half a character, as in {key!a}: {text[:80]!a}. Take it out."
            )


def open_mp4(draft: Path, metadata: Mapping[str, str]) -> av.container.OutputContainer:
    """A new MP4 with texts, open for its streams: index at the front."""
    # Without use_metadata_tags MP4 keeps a dozen known keys and drops the rest.
    options = {"movflags": "+faststart+use_metadata_tags"}
    # An absolute path, as others may mean something else to FFmpeg.
    container = av.open(os.path.abspath(draft), "w", format="mp4", options=options)
    container.metadata.update(metadata)
    return container


def _encode(
    container: av.container.OutputContainer,
    size: tuple[int, int],
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    fps: int | float | Fraction,
    crf: int | None,
) -> None:
    codec, pixels = ("libx264rgb", "rgb24") if crf is None else ("libx264", "yuv420p")
    stream = cast("av.VideoStream", container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001)))
    (stream.height, stream.width), stream.pix_fmt = size, pixels
    x264 = "threads=1:cpu-independent=1"
    stream.options = {"crf": str(crf or 0), "preset": "medium", "x264-params": x264}
    if crf is not None:
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
    for picture in frames:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        if crf is not None:
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
    """The text that `write_video` stored in a file; of others' files what they say, U+FFFD for what is no UTF-8.

    Raises:
        VideoError: if the file cannot be read.
    """
    check_file(path)
    with open_container(path) as container:
        return {key: value for key, value in container.metadata.items() if key.lower() not in _CONTAINER_KEYS}


class FrameSpool:
    """Frames that wait on the disk, in a file without a name, so that none of them takes memory."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # open as long as this is there
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def append(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Add one of the size of the others; not between reads."""
        self._shape = frame.shape
        self._file.write(frame.tobytes())
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        size = math.prod(self._shape)
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape)


class _LazyPictures(Image.Image):
    """Pictures of an animation as Pillow takes them, of which one at a time is in memory."""

    def __init__(self, frames: Frames, chosen: Sequence[int]) -> None:
        super().__init__()
        self._frames, self._chosen = frames, chosen
        self.n_frames = len(chosen)
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        picture = Image.fromarray(self._frames[self._chosen[frame]])
        self.im, self._mode, self._size, self._at = picture.im, picture.mode, picture.size, frame

    def tell(self) -> int:
        return self._at


def write_preview(path: str | os.PathLike[str], frames: Frames, fps: int | float) -> None:
    """Write an endless animated WebP or GIF, by the ending of `path`.

    Frame durations are whole milliseconds in WebP, hundredths of a second in GIF, and spread so that the
    whole keeps its length. Equal pictures in a row become one that lasts as long as they do.

    Args:
        path: a name ending in .webp or .gif; its folder must exist.
        frames: RGB pictures, an array or a `FrameSpool`.
        fps: frames per second; at most 50 in a GIF, as players take shorter frames for long ones.

    Raises:
        VideoError: if the name ends otherwise, there is nothing to write, or writing fails.
    """
    _check(path, len(frames), fps)
    suffix = Path(path).suffix.lower()
    if suffix not in (".webp", ".gif"):
        raise VideoError(path, f"got a preview named {suffix or 'without ending'}, expected .webp or .gif.")
    if suffix == ".gif" and fps > _GIF_FPS:
        raise VideoError(
            path, f"got fps {fps} for a GIF, expected at most {_GIF_FPS}. Write .webp, or fewer frames."
        )
    unit = 1 if suffix == ".webp" else 10
    new = [index for index in range(len(frames)) if index == 0 or (frames[index] != frames[index - 1]).any()]
    ends = [round(1000 / unit * index / fps) * unit for index in [*new, len(frames)]]
    durations = [end - start for start, end in itertools.pairwise(ends)]
    settings: dict[str, Any] = {"quality": 80, "method": 4} if suffix == ".webp" else {}
    settings |= {"duration": durations, "loop": 0} if len(new) > 1 else {"duration": durations[0]}

    with _whole_file(path) as draft:
        pictures, buffer = _LazyPictures(frames, new), io.BytesIO()
        pictures.save(buffer, suffix[1:].upper(), save_all=True, **settings)
        animation = buffer.getvalue()
        # Encoders make a still picture, without a length, of pictures that hardly differ.
        if suffix == ".webp" and animation[30:34] != b"ANIM":
            height, width = frames[0].shape[:2]
            animation = _webp_of_one(animation, width, height, sum(durations))
        draft.write_bytes(animation)


def _webp_of_one(still: bytes, width: int, height: int, milliseconds: int) -> bytes:
    """An animation of one picture.

    Source: Google, WebP Container Specification, "Extended File Format".
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + len(content).to_bytes(4, "little") + content

    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = bytes(6) + size + milliseconds.to_bytes(3, "little") + bytes(1) + still[12:]
    is_animation = bytes([2, 0, 0, 0])
    parts = chunk(b"VP8X", is_animation + size) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return chunk(b"RIFF", b"WEBP" + parts)


def _check(path: str | os.PathLike[str], count: int, fps: int | float) -> None:
    if count == 0:
        raise VideoError(path, "got no frames to write, expected at least one.")
    if not _MIN_FPS <= fps <= 1000:
        raise VideoError(path, f"got fps {fps}, expected a number from {_MIN_FPS} to 1000.")


@contextmanager
def _whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    try:
        with whole_file(path) as draft:
            yield draft
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, f"cannot be written: {describe(error)}") from error
