"""Files as bytes: opened so that no name means anything but a file, and measured against what their own parts promise.

FFmpeg takes names for more than paths (`concat:`, `http:`, `-`, `%03d`), and files for lists of further names. So it is
handed bytes, and may open nothing else. It also reads a cut file as far as it goes and says nothing: therefore the
parts of a file, which state their length, are laid end to end here.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av

DAMAGE_ADVICE = "Fetch it again or re-encode it, or drop it."

_BUFFER_BYTES = 1 << 18
_QUICKTIME_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_MATROSKA_MASTERS = {0x18538067, 0x1F43B675}  # segment, cluster
_FLV_TAGS = {8, 9, 18}
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


class VideoError(ValueError):
    """A video file that cannot be read or written as asked.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        name = os.fspath(path)
        super().__init__(f"{name if name.isprintable() else ascii(name)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


def describe(error: Exception) -> str:
    """The gist of an FFmpeg or system error in one sentence."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return text.splitlines()[0].rstrip(".") + "."


class _Bytes:
    """An open file without its name, which FFmpeg would read meaning into."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def open_container(
    path: str | os.PathLike[str], what: str = "video", **options: str
) -> Iterator[av.container.InputContainer]:
    """A local file opened by FFmpeg, whatever its name looks like and whatever other files it points to.

    Text in it that is no UTF-8 reads with U+FFFD in place of what is none. `what` is what it should be, for messages;
    `options` are FFmpeg's for the container.

    Raises:
        VideoError: if it, or what is read from it in the block, makes no sense to FFmpeg.
    """
    try:
        with (
            open(path, "rb", buffering=0) as file,
            av.open(
                _Bytes(file),
                "r",
                options={"protocol_whitelist": "none", **options},
                metadata_errors="replace",
                buffer_size=_BUFFER_BYTES,
            ) as container,
        ):
            yield container
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be read as {what}: {describe(error)}") from error


def check_file(path: str | os.PathLike[str]) -> os.stat_result:
    """Size and time of a file that may be opened.

    Raises:
        VideoError: if it is missing, no plain file, or empty.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in its name
        raise VideoError(path, describe(error)) from error
    if not stat.S_ISREG(status.st_mode):
        # To open a pipe is to wait for its writer.
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise VideoError(path, f"is {kind}, expected a file.")
    if status.st_size == 0:
        raise VideoError(path, "is empty.")
    return status


def refuse_cut(path: Path, size: int) -> None:
    """Lay the parts of a file end to end.

    Raises:
        VideoError: if its parts should reach beyond its end, or have a gap.
    """
    with path.open("rb") as file:
        head = file.read(16)
        end = next(
            (measure(file, size) for start, at, measure in _MEASURES if head.startswith(start, at)), None
        )
    if end is None:
        return
    if end > size:
        raise VideoError(
            path, f"is cut short: it has {size} bytes and should have at least {end}. {DAMAGE_ADVICE}"
        )
    if end < 0:
        raise VideoError(path, f"is damaged at byte {-end} of {size}. {DAMAGE_ADVICE}")


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _measure_mp4(file: BinaryIO, size: int) -> int | None:
    offset = 0
    while offset < size:
        head = _at(file, offset, 16)
        if len(head) < 8 or not head[4:8].isalnum():
            return None  # what follows the boxes is nobody's
        (length,) = struct.unpack(">I", head[:4])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:16])
        if length < 8:
            return None  # 0 is "to the end of the file"
        offset += length
        if head[4:8] in (b"mdat", b"moov", b"moof") and offset > size:
            return offset
    return None


def _measure_riff(file: BinaryIO, size: int) -> int | None:
    offset = 0
    # AVI beyond 1 GB is several RIFFs in a row.
    while (head := _at(file, offset, 8))[:4] == b"RIFF" and len(head) == 8:
        (length,) = struct.unpack("<I", head[4:])
        if length in (0, 0xFFFFFFFF):
            return None  # a recorder that never came back to fill it in
        offset += 8 + length
        if offset > size:
            return offset
        offset += length % 2
    return None


def _measure_matroska(file: BinaryIO, size: int) -> int | None:
    offset = 0
    ends = [size]
    while offset < size:
        while len(ends) > 1 and offset >= ends[-1]:
            ends.pop()
            if len(ends) == 1:
                return None  # what follows the segment is nobody's
        head = _at(file, offset, 12)
        identifier, id_bytes = _variable_integer(head, keep_marker=True)
        length, length_bytes = _variable_integer(head[id_bytes:]) if id_bytes else (0, 0)
        if not length_bytes or id_bytes > 4:
            return offset + 12 if len(head) < 12 else -offset
        offset += id_bytes + length_bytes
        unknown = length == (1 << 7 * length_bytes) - 1
        end = size if unknown else offset + length
        if end > ends[-1]:
            # The outermost part that is too long tells how much is missing; an inner one may be nonsense.
            return end if len(ends) == 1 or ends[-1] == size else -offset
        if identifier in _MATROSKA_MASTERS:
            ends.append(end)
        elif unknown:
            return None
        else:
            offset = end
    return None


def _variable_integer(data: bytes, keep_marker: bool = False) -> tuple[int, int]:
    """EBML's number at the start of some bytes, and how many it takes; 0 of them where there is none."""
    count = 9 - data[0].bit_length() if data else 9
    if count > 8 or len(data) < count:
        return 0, 0
    value = int.from_bytes(data[:count], "big")
    return (value if keep_marker else value - (1 << 7 * count)), count


def _measure_png(file: BinaryIO, size: int) -> int | None:
    offset = 8
    while True:
        head = _at(file, offset, 8)
        if len(head) < 8:
            return size + 1
        if not head[4:8].isalpha():
            return -offset
        offset += 12 + int.from_bytes(head[:4], "big")
        if offset > size or head[4:8] == b"IEND":
            return offset


def _measure_flv(file: BinaryIO, size: int) -> int | None:
    offset = 13
    while offset < size:
        head = _at(file, offset, 4)
        if head[0] & 0x1F not in _FLV_TAGS:
            return -offset
        offset += 15 + int.from_bytes(head[1:4], "big")
    return offset


def _measure_ogg(file: BinaryIO, size: int) -> int | None:
    offset, last = 0, False
    while offset < size:
        head = _at(file, offset, 27 + 255)
        if not b"OggS".startswith(head[:4]):
            return -offset
        if len(head) < 27 or len(head) < 27 + head[26]:
            return size + 1
        last = bool(head[5] & 4)
        offset += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return offset if last or offset > size else size + 1


def _measure_asf(file: BinaryIO, size: int) -> int | None:
    header = _at(file, 0, 4096)
    at = header.find(_ASF_PROPERTIES)
    return int.from_bytes(header[at + 40 : at + 48], "little") if at > 0 else None


def _measure_transport_stream(file: BinaryIO, size: int) -> int | None:
    # Discs put four bytes before each packet, some broadcasters sixteen behind.
    sizes = {188: 0, 192: 4, 204: 0}
    packet = next((length for length, at in sizes.items() if _at(file, length + at, 1) == b"G"), 0)
    return -(-size // packet) * packet if packet else None


def _measure_gif(file: BinaryIO, size: int) -> int | None:
    offset = 13 + _colour_table_bytes(_at(file, 10, 1))
    while offset < size:
        head = _at(file, offset, 10)
        # Some writers leave a zero between blocks, and all readers skip it; so many are a hole.
        padding = len(head) - len(head.lstrip(b"\x00"))
        if head[:1] == b";":
            return offset + 1
        if 0 < padding < len(head):
            offset += padding
            continue
        if head[:1] == b"!":
            offset += 2
        elif head[:1] == b",":
            offset += 11 + _colour_table_bytes(head[9:10])
        else:
            return -offset
        while (length := _at(file, offset, 1)) not in (b"", b"\x00"):
            offset += 1 + length[0]
        offset += 1
    return offset if offset > size else None  # without a trailer, but after a whole picture


def _colour_table_bytes(flags: bytes) -> int:
    return 6 << (flags[0] & 7) if flags and flags[0] & 0x80 else 0


# By the bytes at an offset: where the file should end by what it says (one more than its size where no more is known),
# minus the offset of what is no part of such a file, or None where it does not say.
_MEASURES: tuple[tuple[bytes | tuple[bytes, ...], int, Callable[[BinaryIO, int], int | None]], ...] = (
    (_QUICKTIME_STARTS, 4, _measure_mp4),
    (b"RIFF", 0, _measure_riff),
    (b"\x1a\x45\xdf\xa3", 0, _measure_matroska),
    (b"\x89PNG", 0, _measure_png),
    (b"GIF8", 0, _measure_gif),
    (b"FLV\x01", 0, _measure_flv),
    (b"OggS", 0, _measure_ogg),
    (b"\x30\x26\xb2\x75", 0, _measure_asf),
    (b"G", 0, _measure_transport_stream),
    (b"G", 4, _measure_transport_stream),
)
