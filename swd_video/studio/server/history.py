"""Every take that was ever seen finished in a folder: later ones take the place of its files, not of its seed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swd_video.plain_text import numbered_lines

_SHOWN = 500
"""The page shows so many, the latest ones."""


class History:
    """A file with a line for each finished take, which only grows."""

    def __init__(self, file: Path) -> None:
        """Go on with a history; lines that cannot be read are passed over."""
        self._file = file
        self._entries: list[dict[str, Any]] = []
        lines = numbered_lines(file, "") if file.is_file() else []
        for _, line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                self._entries.append(entry)
        self._known = {_key(entry) for entry in self._entries}

    def record(self, clips: Iterable[Mapping[str, Any]]) -> None:
        """Add those that are not in it yet."""
        kept = ("id", "take", "seed", "prompt", "content_hash", "made")
        new = [{key: clip.get(key) for key in kept} for clip in clips if _key(clip) not in self._known]
        if not new:
            return
        new.sort(key=lambda entry: entry["made"] or 0)
        with self._file.open("a", encoding="utf-8") as file:
            # A line that a kill cut short ends here, else the next would be lost with it.
            file.write("".join(f"{json.dumps(entry)}\n" for entry in new))
        self._entries += new
        self._known |= {_key(entry) for entry in new}

    def latest(self) -> list[dict[str, Any]]:
        """The latest ones, the newest first."""
        return self._entries[: -_SHOWN - 1 : -1]


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry.get("id"), entry.get("take"), entry.get("content_hash")
