"""Hashes that decide whether a clip is already what a script asks for."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

WHOLE_FILE_BYTES = 256 * 2**20
"""Files up to this size are hashed whole; of larger ones, evenly spaced samples."""

_SAMPLES = 256
_SAMPLE_BYTES = 2**16
# What a folder may hold besides the model, without changing what the model makes.
_IGNORED_SUFFIXES = {".md", ".png", ".gif", ".webp", ".mp4", ".log", ".tmp", ".part"}


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_content(fields: Mapping[str, Any]) -> str:
    """Return a hash of plain JSON values; the order of keys does not matter."""
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_folders(folders: Iterable[Path]) -> str:
    """Return one hash for the models in some folders: every file's relative path, size and bytes.

    Pictures, clips, logs, Markdown and names that start with a dot do not count. A file above
    `WHOLE_FILE_BYTES` counts by its size, its first and last bytes and 256 evenly spaced blocks of 64 KiB:
    training moves every weight, so this tells checkpoints apart without reading tens of gigabytes each time.

    Args:
        folders: Model folders; their order counts, where they lie does not.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            if hidden or path.suffix.lower() in _IGNORED_SUFFIXES or not path.is_file():
                continue
            digest.update(f"{relative.as_posix()}\n{_fingerprint_file(path)}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _fingerprint_file(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE_FILE_BYTES:
        return hash_file(path)
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        for sample in range(_SAMPLES):
            file.seek(sample * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
