"""Files of shots that a script names no longer: found, and moved out of the way."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from swd_video.studio.folder import read_object, stage_preview, state_file

UNUSED_FOLDER = "unused"

_SHOWN = 5


def unused_files(shot_ids: Collection[str], folder: Path) -> list[Path]:
    """The files of clips in a folder whose shot is none of these, as their sidecars tell; files of others stay unseen.

    Takes of a shot that there is still are not among them: they can be picked again.
    """
    names = {shot_id.lower() for shot_id in shot_ids}
    found = []
    for path in sorted(folder.glob("*.json")):
        sidecar = read_object(path)
        files, shot_id = sidecar.get("files"), sidecar.get("id")
        if not (isinstance(files, Mapping) and isinstance(shot_id, str) and "content_hash" in sidecar):
            continue
        if shot_id.lower() in names:
            continue
        own = [path, *(folder / name for name in files if Path(name).name == name)]
        waiting = [state_file(path.stem, folder), folder / stage_preview(path.stem)]
        found += [file for file in [*own, *waiting] if file.is_file()]
    return found


def tidy(files: Collection[Path], folder: Path) -> Path:
    """Move files into a folder beside them, a new one where some of these names are taken there.

    Returns:
        Where they lie now.
    """
    number = 1
    while any((folder / _named(number) / file.name).exists() for file in files):
        number += 1
    target = folder / _named(number)
    target.mkdir(exist_ok=True)
    # Sidecars first: clips without one count as not finished, should the rest fail.
    for file in sorted(files, key=lambda file: file.suffix != ".json"):
        os.replace(file, target / file.name)
    return target


def see_to_unused(
    shot_ids: Collection[str], folder: Path, *, tidy_up: bool, say: Callable[[str], None]
) -> None:
    """Tell of the files of clips that no shot names any more, and move them away if asked to."""
    files = unused_files(shot_ids, folder)
    if not files:
        return
    names = list(dict.fromkeys(file.name.partition(".")[0] for file in files))
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    if tidy_up:
        say(f"clips that no shot names any more, moved to {tidy(files, folder)}: {shown}")
    else:
        say(f"clips that no shot names any more: {shown}. --tidy moves them into {folder / UNUSED_FOLDER}.")


def _named(number: int) -> str:
    return UNUSED_FOLDER if number == 1 else f"{UNUSED_FOLDER}-{number}"
