"""Files of shots that a script names no longer: found, and moved out of the way."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from swd_video.studio.folder import (
    DRAFTS_FOLDER,
    STATE_KEY,
    STATE_SUFFIX,
    read_object,
    sidecar_file,
    stage_preview,
    state_file,
)
from swd_video.studio.script import Take, shot_and_take

UNUSED_FOLDER = "unused"

_SHOWN = 5


def unused_files(shot_ids: Collection[str], folder: Path, *, begun: bool = True) -> list[Path]:
    """The files of takes in a folder whose shot is none of these, as their own files tell; others' stay unseen.

    Takes of a shot that there is still are not among them: they can be picked again.

    Args:
        shot_ids: of the script.
        folder: of the clips.
        begun: whether drafts, and takes whose run was killed before they were finished, are looked at as well.
    """
    names = {shot_id.lower() for shot_id in shot_ids}
    found = []
    for place in (folder, folder / DRAFTS_FOLDER) if begun else (folder,):
        takes = _with_sidecar(place)
        if begun:
            takes = {**_waiting(place), **takes}
        for name, (shot_id, files) in sorted(takes.items()):
            if shot_id.lower() not in names:
                files = [sidecar_file(name, place), *files]
                files += [state_file(name, place), place / stage_preview(name)]
                found += [file for file in files if file.is_file()]
    return found


def _with_sidecar(folder: Path) -> dict[str, tuple[str, list[Path]]]:
    """By name, the shots and files of takes that are finished, or drafted."""
    found = {}
    for path in folder.glob("*.json"):
        sidecar = read_object(path)
        files, shot_id = sidecar.get("files"), sidecar.get("id")
        if isinstance(files, Mapping) and isinstance(shot_id, str) and "content_hash" in sidecar:
            found[path.stem] = shot_id, [folder / name for name in files if Path(name).name == name]
    return found


def _waiting(folder: Path) -> dict[str, tuple[str, list[Path]]]:
    """The same of takes between two stages; what was being written when their run was killed is theirs too."""
    found = {}
    for path in folder.glob(f"*{STATE_SUFFIX}"):
        try:
            with safe_open(path, framework="np") as stored:
                is_ours = STATE_KEY in (stored.metadata() or {})
        except (OSError, SafetensorError):
            continue
        if is_ours:
            name = path.name.removesuffix(STATE_SUFFIX)
            found[name] = shot_and_take(name)[0], [folder / f"{name}{suffix}" for suffix in (".mp4", ".webp")]
    return found


def tidy(files: Collection[Path], folder: Path) -> Path:
    """Move files of a folder into one in it, a new one where some of these names are taken there.

    Returns:
        Where they lie now.
    """
    number = 1
    while any((folder / _named(number) / file.relative_to(folder)).exists() for file in files):
        number += 1
    target = folder / _named(number)
    # Sidecars first: clips without one count as not finished, should the rest fail.
    for file in sorted(files, key=lambda file: file.suffix != ".json"):
        moved = target / file.relative_to(folder)
        moved.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, moved)
    return target


def set_aside(takes: Iterable[Take], folder: Path) -> str:
    """Move the finished clips away that have the names of takes and show another prompt.

    Returns:
        What was moved, as a sentence; empty where nothing was.
    """
    there = _with_sidecar(folder)
    files: list[Path] = []
    for take in takes:
        sidecar = sidecar_file(take.name, folder)
        if take.name in there and read_object(sidecar).get("prompt") != take.shot.prompt:
            files += [file for file in (sidecar, *there[take.name][1]) if file.is_file()]
    return f"clips of these names are moved to {tidy(files, folder)}: {_listed(files)}." if files else ""


def see_to_unused(
    shot_ids: Collection[str],
    folder: Path,
    *,
    begun: bool = True,
    tidy_up: bool,
    say: Callable[[str], None],
) -> None:
    """Tell of the files of takes that no shot names any more, as `unused_files`, and move them away if asked to."""
    files = unused_files(shot_ids, folder, begun=begun)
    if not files:
        return
    shown = _listed(files)
    if tidy_up:
        say(f"takes that no shot names any more, moved to {tidy(files, folder)}: {shown}")
    else:
        say(f"takes that no shot names any more: {shown}. --tidy moves them into {folder / UNUSED_FOLDER}.")


def _listed(files: Collection[Path]) -> str:
    """Names of takes, by their files; the first few of many."""
    names = list(dict.fromkeys(file.name.partition(".")[0] for file in files))
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _named(number: int) -> str:
    return UNUSED_FOLDER if number == 1 else f"{UNUSED_FOLDER}-{number}"
