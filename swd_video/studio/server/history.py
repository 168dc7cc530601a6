"""Every take that was ever seen finished in a folder: later ones take the place of its files, not of its seed."""

import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_SHOWN = 500
"""The page shows so many, the latest ones."""

_KEPT = ("id", "take", "seed", "prompt", "content_hash", "made")


class History:
    """A file with a line for each finished take, which only grows."""

    def __init__(self, file: Path) -> None:
        """Go on with a history; lines that cannot be read are passed over."""
        self._file = file
        self._lock = threading.Lock()  # several pages may ask at once
        content = b"" if file.is_symlink() or not file.is_file() else file.read_bytes()
        # Else what follows a line that a kill cut short would be lost with it.
        self._is_cut = content != b"" and not content.endswith(b"\n")
        self._entries = [entry for line in content.split(b"\n") if (entry := _read(line))]
        self._known = {_key(entry) for entry in self._entries}

    def record(self, clips: Iterable[Mapping[str, Any]]) -> None:
        """Add those that are not in it yet; where nothing can be written now, they are added the next time."""
        with self._lock:
            new = [{key: clip.get(key) for key in _KEPT} for clip in clips if _key(clip) not in self._known]
            if not new:
                return
            new.sort(key=lambda entry: entry["made"] or 0)
            with suppress(OSError):
                self._append("".join(f"{json.dumps(entry)}\n" for entry in new))
                self._entries += new
                self._known |= {_key(entry) for entry in new}

    def latest(self) -> list[dict[str, Any]]:
        """The latest ones, the newest first."""
        return self._entries[: -_SHOWN - 1 : -1]

    def _append(self, lines: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self._file, flags, 0o666), "w", encoding="utf-8") as file:
            was_cut, self._is_cut = self._is_cut, True
            file.write(f"\n{lines}" if was_cut else lines)
        self._is_cut = False


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
        hash(_key(entry))
    except (ValueError, TypeError, AttributeError):
        return None
    return {key: entry.get(key) for key in _KEPT}


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry.get("id"), entry.get("take"), entry.get("content_hash")
