"""What lies where in a folder of clips, how its JSON files are read back, and which errors are the folder's own."""

import errno
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from swd_video.files import hash_file
from swd_video.plain_text import sentence

_Item = TypeVar("_Item")

REPORT_NAME = "render.json"
SHEET_NAME = "contact_sheet.png"
PICKS_NAME = "picks.json"
DRAFTS_FOLDER = "drafts"
FILM_NAME, FILM_RECORD_NAME = "film.mp4", "film.json"
OTIO_NAME, FCPXML_NAME, EDL_NAME = "film.otio", "film.fcpxml", "film.edl"
PLAYER_NAME = "player.html"
DRAFTS_REPORT_NAME = "drafts.json"
DRAFTS_SHEET_NAME = "drafts.png"
DRAFTS_PAGE_NAME = "drafts.html"

STATE_SUFFIX = ".latents.safetensors"
STATE_KEY = "made_of"
"""Of the metadata of such a file; one key, as several are written in an order that changes from run to run."""

_OF_THE_FOLDER = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
"""Errors that the next clip would meet as well."""


def state_file(name: str, out: Path) -> Path:
    """Where a clip of this name waits for its next stage, or to be decoded."""
    return out / f"{name}{STATE_SUFFIX}"


def stage_preview(name: str) -> str:
    """Name of the file that shows how far a clip is, while it is made."""
    return f"{name}.preview.webp"


def sidecar_file(name: str, out: Path) -> Path:
    """The JSON file beside a finished clip."""
    return out / f"{name}.json"


def in_pages(path: Path, items: Sequence[_Item], most: int) -> dict[Path, Sequence[_Item]]:
    """What is on each of the pages `sheet.png`, `sheet_2.png` and so on, of which there is at least one."""
    starts = range(0, max(1, len(items)), most)
    names = [path, *(path.with_stem(f"{path.stem}_{number}") for number in range(2, len(starts) + 1))]
    return {name: items[start : start + most] for name, start in zip(names, starts, strict=True)}


def drop_other_pages(path: Path, kept: Collection[Path]) -> None:
    """Delete the pages of an earlier, longer script."""
    name = re.compile(rf"{re.escape(path.stem)}_[0-9]+{re.escape(path.suffix)}")
    for other in path.parent.iterdir():
        if name.fullmatch(other.name) and other not in kept:
            other.unlink()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def object_at(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The JSON object at a key; an empty one where there is none."""
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def objects_at(values: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The JSON objects of the list at a key; none where there is no list."""
    value = values.get(key)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def are_whole(files: object, names: Collection[str], folder: Path) -> bool:
    """Whether all files are as a record of their hashes says, and these are among them."""
    if not isinstance(files, Mapping) or not set(names) <= files.keys():
        return False
    return all(
        (folder / name).is_file() and hash_file(folder / name) == digest for name, digest in files.items()
    )


def why_it_failed(error: Exception) -> str:
    """What went wrong with one clip, in one line.

    Raises:
        OSError: The next clip would meet the same.
    """
    if _is_of_the_folder(error):
        raise OSError(
            f"{sentence(_told(error))} What is finished is kept: mend it and run the same command again."
        ) from error
    return " ".join(f"{type(error).__name__}: {error}".split())


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be written: {error.strerror}."
    return str(error)


def _is_of_the_folder(error: BaseException | None) -> bool:
    while error is not None and getattr(error, "errno", None) not in _OF_THE_FOLDER:
        error = error.__cause__
    return error is not None
