"""Clips of a row on disk, without loss, made batch by batch so that a run that is killed loses one batch."""

import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from swd_video.evaluation.rows import Request, Row
from swd_video.files import whole_file

# Far apart, so that the clips of runs with neighbouring seeds share no noise.
_SEED_STEP = 1_000_003
# What NumPy, and the readers of archives below it, raise at a file that is none of theirs.
_DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, SyntaxError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class StoredClips:
    """The clips of one row.

    Attributes:
        folder: Holds them, and what was measured on them.
        files: One for each batch.
        batch_size: Clips in a file; the last may have fewer.
        captions: What each clip was asked to show, in order.
        fps: Frames per second.
    """

    folder: Path
    files: tuple[Path, ...]
    batch_size: int
    captions: tuple[str, ...]
    fps: float

    def batches(self) -> Iterator[UInt8[np.ndarray, "clips frames height width 3"]]:
        """Read them in order; all at once might not fit into memory."""
        for path in self.files:
            yield read_arrays(path)["frames"]

    def clip(self, index: int) -> UInt8[np.ndarray, "frames height width 3"]:
        """Read one."""
        return np.asarray(
            read_arrays(self.files[index // self.batch_size])["frames"][index % self.batch_size]
        )


def make_clips(
    row: Row, requests: Sequence[Request], folder: Path, *, seed: int, batch_size: int
) -> StoredClips:
    """All clips of a row; a second run makes only those that are missing, or whose file was cut.

    Clip i starts from the noise of seed `seed * 1_000_003 + i`, the same in every row.
    """
    home = folder / f"{row.key}-{row.digest([str(request) for request in requests], seed, batch_size)}"
    home.mkdir(parents=True, exist_ok=True)
    files = []
    began, made = time.monotonic(), 0
    for start in range(0, len(requests), batch_size):
        path = home / f"{start // batch_size:04d}.npz"
        files.append(path)
        if is_stored(path):
            continue
        chunk = requests[start : start + batch_size]
        try:
            frames = row.make(chunk, [seed * _SEED_STEP + start + i for i in range(len(chunk))])
        except ValueError as error:
            raise ValueError(f"row {row.key!r}: {error}") from error
        store_arrays(path, {"frames": frames})
        made += len(chunk)
        done = start + len(chunk)
        left = (time.monotonic() - began) / made * (len(requests) - done)
        print(f"{row.key}: {done} of {len(requests)} clips, about {left:.0f} s left", file=sys.stderr)
    captions = tuple(request.caption for request in requests)
    return StoredClips(home, tuple(files), batch_size, captions, row.fps)


def check_clips(frames: np.ndarray) -> None:
    """Check that a batch of clips is uint8 RGB with at least two frames each, as every judge expects.

    Raises:
        ValueError: If it is not.
    """
    if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or frames.shape[1] < 2:
        raise ValueError(
            f"clips: got {frames.dtype} of shape {frames.shape}, "
            "expected uint8 (clips, frames, height, width, 3) with two or more frames."
        )


def store_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write compressed arrays whole."""
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def is_stored(path: Path) -> bool:
    """Whether `store_arrays` wrote a file; one that was cut since then is named on stderr, and is to be made again."""
    if not path.exists() or zipfile.is_zipfile(path):
        return path.exists()
    print(f"warning: {path}: the file is damaged, and made again.", file=sys.stderr)
    return False


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with np.load(path) as stored:
            if not stored.files:
                raise ValueError("it holds nothing")
            return {name: stored[name] for name in stored.files}
    except _DAMAGED as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{path}: the file is damaged: {reason}. Delete it and run the same command again, which makes it anew."
        ) from None
