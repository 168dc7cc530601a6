"""Manifests: which clips there are, one JSON object a line.

    {"path": "clips/fox.mp4", "caption": "a fox jumps", "start": 1.5, "end": 4.25}

`path` is relative to the manifest's folder unless absolute; `start` and `end` are seconds and may be left out. The file
is UTF-8, or UTF-16 with a mark.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swd_video.plain_text import clean_text, numbered_lines, on_one_line

_KEYS = ("path", "caption", "start", "end")
_LONGEST_SECONDS = 1e9
_EXAMPLE = 'write one JSON object a line, such as {"path": "fox.mp4", "caption": "a fox jumps"}'


@dataclass(frozen=True)
class Clip:
    """A stretch of a video file and what it shows.

    Attributes:
        path: the file, ready to open.
        caption: what the clip shows.
        start: seconds from the first frame.
        end: seconds from the first frame; None for the end of the file.
        written_path: the path as the manifest gives it, the same on every machine.
        problem: why the clip cannot be used, where its line says so already.
    """

    path: Path
    caption: str
    start: int | float = 0.0
    end: int | float | None = None
    written_path: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        """The file as people know it: as the manifest gives it, where there is one; it can be printed."""
        return on_one_line(self.written_path or str(self.path))

    def as_dict(self) -> dict[str, Any]:
        """The manifest line that gives this clip."""
        path = self.written_path or str(self.path)
        line: dict[str, Any] = {"path": path, "caption": self.caption, "start": self.start}
        return line if self.end is None else {**line, "end": self.end}


def read_manifest(path: str | os.PathLike[str]) -> list[Clip]:
    """Read every clip of a manifest, in order. Whether the videos exist is found out when they are read.

    A clip without a caption, or with one that no tokenizer takes, says so in its `problem`.

    Raises:
        ValueError: naming file and line, if one is not what it should be, or there is no clip.
    """
    manifest = Path(path)
    if manifest.is_dir():
        raise ValueError(
            f"{manifest}: is a folder, expected a file that says what each clip shows; {_EXAMPLE}."
        )
    missing = (
        "no such manifest. Check the path, which starts at the working directory, or make the file; "
        "a shipped config says how in its first lines."
    )
    clips = [_parse(line, number, manifest) for number, line in numbered_lines(manifest, missing)]
    if not clips:
        raise ValueError(f"{manifest}: holds no clip; {_EXAMPLE}.")
    return clips


def clips_digest(clips: Sequence[Clip]) -> str:
    """SHA-256 of what the manifest says, the same wherever the videos lie."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(json.dumps(clip.as_dict(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _parse(line: str, number: int, manifest: Path) -> Clip:
    where = f"{manifest}:{number}"
    try:
        fields = json.loads(line, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not valid JSON: {error.msg} at character {error.pos + 1}; {_EXAMPLE}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON: {on_one_line(str(error))}.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: got {on_one_line(line)[:40]}, expected an object with path and caption.")
    unknown = [key for key in fields if key not in _KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; a clip has {', '.join(_KEYS)}.")
    path, caption = fields.get("path"), fields.get("caption")
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{where}: path: got {path!r}, expected text.")
    if "caption" not in fields or not isinstance(caption, str | None):
        raise ValueError(f"{where}: caption: got {caption!r}, expected text.")
    start = _seconds(fields.get("start"), "start", where) or 0.0
    end = _seconds(fields.get("end"), "end", where)
    if end is not None and end <= start:
        raise ValueError(f"{where}: end: got {end:g} s, expected more than start, {start:g} s.")
    name, problem = f"line {number} of the manifest: caption", ""
    try:
        caption = clean_text(caption or "", name).strip()
        problem = "" if caption else f"{name} is empty; write what the clip shows, or drop the line."
    except ValueError as error:
        caption, problem = caption or "", str(error)
    return Clip(manifest.parent / path, caption.strip(), start, end, path, problem)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} is given twice")
    return fields


def _seconds(value: Any, key: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_SECONDS:
        raise ValueError(f"{where}: {key}: got {value!r}, expected seconds, 0 or more.")
    return float(value)
