"""What lies in the folder of a studio: takes and their files, picks, and what may be handed out of it."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeAlias

from swd_video.studio.folder import (
    DRAFTS_FOLDER,
    EDL_NAME,
    FCPXML_NAME,
    FILM_NAME,
    OTIO_NAME,
    PLAYER_NAME,
    SHEET_NAME,
    read_object,
)
from swd_video.studio.script import Script, Take

SERVED = {
    ".mp4": "video/mp4",
    ".webp": "image/webp",
    ".png": "image/png",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".otio": "application/json",
    ".fcpxml": "application/xml",
    ".edl": "text/plain; charset=utf-8",
    **dict.fromkeys(
        (".yaml", ".yml", ".txt", ".csv", ".tsv", ".fountain", ".fdx"), "text/plain; charset=utf-8"
    ),
}
"""Suffixes of files that are handed out, and what they are said to be."""

_FILMS = (FILM_NAME, OTIO_NAME, FCPXML_NAME, EDL_NAME, PLAYER_NAME, SHEET_NAME)


class Folder:
    """A folder of takes, read again only where its files have changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}

    def file(self, name: str) -> Path | None:
        """The file of a name that somebody asks for; None where it is none that is handed out.

        Hidden files are not, nor what lies outside of the folder: by `..`, from the root, or through a link.
        """
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\\" in name or ":" in name or "\0" in name:
            return None
        if any(part.startswith(".") for part in parts) or Path(name).suffix.lower() not in SERVED:
            return None
        path = self.path
        for index, part in enumerate(parts):
            path = path / part
            try:
                mode = path.lstat().st_mode
                part.encode()  # else no address and no archive can name it
            except (OSError, ValueError):
                return None
            if not (stat.S_ISREG(mode) if index == len(parts) - 1 else stat.S_ISDIR(mode)):
                return None
        return path

    def files(self) -> Iterator[tuple[str, Path]]:
        """Everything that is handed out, by name, in the order of names."""
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if (found := self.file(name)) is not None:
                yield name, found

    def signature(self) -> int:
        """Changes whenever a file came, went or was written anew."""
        marks = []
        for folder in (self.path, self.path / DRAFTS_FOLDER):
            try:
                marks.append(folder.stat().st_mtime_ns)
            except OSError:
                marks.append(0)
        return hash(tuple(marks))

    def films(self) -> list[dict[str, Any]]:
        """What was made of all clips together, with a number that changes with the file."""
        found = [(name, self.file(name)) for name in _FILMS]
        return [{"file": name, "mark": path.stat().st_mtime_ns} for name, path in found if path is not None]

    def clips(self) -> "Takes":
        """Finished takes; `file` and `preview` are names for `file`."""
        return self._takes(self.path, "")

    def drafts(self) -> "Takes":
        """The same of drafts."""
        return self._takes(self.path / DRAFTS_FOLDER, f"{DRAFTS_FOLDER}/")

    def _takes(self, folder: Path, prefix: str) -> "Takes":
        found = _files_in(folder)
        takes: Takes = {}
        for name, about_file in found.items():
            stem, _, suffix = name.rpartition(".")
            if suffix != "json" or not (f"{stem}.mp4" in found or f"{stem}.webp" in found):
                continue
            about = self._sidecar(f"{prefix}{name}", about_file)
            if not about.keys() >= _NEEDED:
                continue
            take = about | {"made": about_file.st_mtime}
            for key, beside in (("file", f"{stem}.mp4"), ("preview", f"{stem}.webp")):
                if beside in found:
                    take |= {key: f"{prefix}{beside}", "mark": found[beside].st_mtime_ns}
            takes[about["id"], about["take"]] = take
        return takes

    def _sidecar(self, name: str, file: os.stat_result) -> dict[str, Any]:
        mark = file.st_mtime_ns, file.st_size
        known = self._read.get(name)
        if known is None or known[0] != mark:
            known = self._read[name] = mark, _only_facts(read_object(self.path / name))
        return known[1]


Takes: TypeAlias = dict[tuple[str, int], dict[str, Any]]
"""What is known of takes that are there, by shot and number."""


def describe_shots(
    script: Script,
    clips: Takes,
    drafts: Takes,
    picks: Mapping[str, tuple[int, ...]],
    content_hashes: Mapping[str, str] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Every shot of a script with its takes: those that it asks for, and those that are there.

    `content_hashes` tell what takes of the script as it is are made of, by their names; where one is not known, prompt
    and seed alone tell whether a take is of an older version.
    """
    numbers: dict[str, set[int]] = {shot.id: set() for shot in script.shots}
    for shot_id, number in (*clips, *drafts):
        if shot_id in numbers:
            numbers[shot_id].add(number)
    shots = []
    for shot in script.shots:
        picked = shot.pick or picks.get(shot.id, ())
        takes = []
        for number in sorted({*numbers[shot.id], *picked, *range(1, shot.takes + 1)}):
            take = script.take(shot, number)
            now = content_hashes.get(take.name)
            clip, draft = clips.get((shot.id, number)), drafts.get((shot.id, number))
            takes.append(
                {
                    "take": number,
                    "seed": take.seed,
                    "picked": number in picked,
                    "kept": shot.keeps(number),
                    "clip": clip and clip | {"older": _is_older(clip, take, now)},
                    "draft": draft and draft | {"older": _is_older(draft, take, now)},
                }
            )
        shots.append(
            {
                "id": shot.id,
                "prompt": shot.prompt,
                "line": shot.line,
                "seconds": shot.seconds,
                "pick_in_script": bool(shot.pick),
                "takes": takes,
            }
        )
    return shots


def describe_others(script: Script | None, clips: Takes, drafts: Takes) -> list[dict[str, Any]]:
    """Takes of shots that the script has no more."""
    known = {shot.id for shot in script.shots} if script else set()
    return [take for (shot_id, _), take in sorted({**drafts, **clips}.items()) if shot_id not in known]


def _is_older(there: Mapping[str, Any], take: Take, content_hash: str | None) -> bool:
    """Whether what is there of a take is of what the script said before."""
    if content_hash is not None:
        return there.get("content_hash") != content_hash
    return there["prompt"] != take.shot.prompt or there["seed"] != take.seed


def _files_in(folder: Path) -> dict[str, os.stat_result]:
    """The files that can be shown, by name: no hidden ones, which come and go while others write, and no links."""
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError, UnicodeEncodeError):  # one that went meanwhile, one whose name is no text
                entry.name.encode()
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat()
    return found


_FACTS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "take": int,
    "seed": int,
    "prompt": str,
    "seconds": (int, float),
    "content_hash": str,
}
"""What is read of a sidecar, and of which type."""

_NEEDED = {"id", "take", "seed", "prompt"}


def _only_facts(about: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a sidecar: thousands of them are remembered."""
    facts = {key: about[key] for key, kind in _FACTS.items() if isinstance(about.get(key), kind)}
    try:
        json.dumps(facts, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:  # NaN, half a character: no answer can hold them
        return {}
    return facts
