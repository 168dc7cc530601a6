"""A ZIP of many files, made while it is sent: neither memory nor disk holds it."""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_PART_BYTES = 2**20


class _Sent:
    """A file that only grows, whose content is taken away as it comes; zipfile knows how to do without going back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def zip_of(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """The parts of a ZIP with these files, by the names in it; what has gone meanwhile is left out.

    Nothing is compressed: clips and pictures are already.
    """
    sent = _Sent()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, path in files:
            try:
                source = path.open("rb")
            except OSError:
                continue
            with source:
                about = zipfile.ZipInfo.from_file(
                    path, name, strict_timestamps=False
                )  # some files are of 1970
                # Its length is known only when it has been read, so room is made for any.
                with archive.open(about, "w", force_zip64=True) as target:
                    while part := source.read(_PART_BYTES):
                        target.write(part)
                        yield sent.take()
            yield sent.take()
    yield sent.take()
