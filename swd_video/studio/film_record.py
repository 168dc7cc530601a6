"""What `render.json` remembers of a script for its film, so that a film can be made of the folder alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swd_video.files import path_from
from swd_video.studio.folder import REPORT_NAME, read_object
from swd_video.studio.picks import read_picks
from swd_video.studio.script import FilmSettings, Script, Shot, Transition, derive_seed
from swd_video.yaml_source import SourceError


def shot_entry(shot: Shot) -> dict[str, Any]:
    """What a film needs of a shot beside its clip; only what was given."""
    entry: dict[str, Any] = {"title": shot.title, "marker": shot.marker}
    entry["trim"] = None if shot.trim is None else list(shot.trim)
    if shot.transition is not None:
        entry["transition"] = {"kind": shot.transition.kind, "seconds": shot.transition.seconds}
    return {key: value for key, value in entry.items() if value}


def film_entry(settings: FilmSettings, folder: Path) -> dict[str, Any]:
    """A film's settings; the path of the sound starts at the folder."""
    entry: dict[str, Any] = {"titles": settings.titles, "crossfade": settings.crossfade}
    entry["order"] = list(settings.order)
    if settings.sound is not None:
        entry["sound"] = path_from(folder, settings.sound)
    return {key: value for key, value in entry.items() if value}


def script_of_folder(folder: Path) -> Script:
    """The script that was rendered into a folder, as far as a film needs it, with what is picked there by now.

    Raises:
        SourceError: Nothing was rendered there, or the record of it is damaged.
    """
    path = folder / REPORT_NAME
    record = read_object(path)
    if not record.get("shots"):
        raise SourceError(f"{path}: no record of clips. Render a script into this folder first.")
    picks = read_picks(folder)
    try:
        for shot_id in record.get("picked_in_script", ()):  # which counts more
            picks.pop(shot_id, None)
        takes: dict[str, dict[int, dict[str, Any]]] = {}
        for entry in record["shots"]:
            takes.setdefault(str(entry["id"]), {})[int(entry["take"])] = entry
        seed, film = int(record["seed"]), record.get("film_settings")
        return Script(
            path=path,
            title=str(record["title"]),
            model=str(record["model"]),
            seed=seed,
            shots=tuple(_shot(of_shot, seed, picks.get(shot_id, ())) for shot_id, of_shot in takes.items()),
            film=None if film is None else _settings(film, folder),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path}: damaged: {type(error).__name__}: {error}. Render the script again, or name it."
        ) from None


def _shot(takes: dict[int, dict[str, Any]], script_seed: int, picks: Sequence[int]) -> Shot:
    # A take that was picked since is told by another of the shot; where it is not rendered, the film says so.
    take = next(iter(picks or takes))
    entry = takes.get(take, next(iter(takes.values())))
    shot_id, told_by = str(entry["id"]), int(entry["take"])
    derived = derive_seed(script_seed, shot_id, told_by) == entry["seed"]
    trim, transition = entry.get("trim"), entry.get("transition")
    return Shot(
        id=shot_id,
        prompt=str(entry["prompt"]),
        seed=None if derived else int(entry["seed"]) - told_by + 1,
        takes=max(takes),
        pick=(take,),
        title=entry.get("title"),
        trim=None if trim is None else (float(trim[0]), float(trim[1])),
        transition=None
        if transition is None
        else Transition(transition["kind"], float(transition["seconds"])),
        marker=entry.get("marker"),
    )


def _settings(entry: dict[str, Any], folder: Path) -> FilmSettings:
    sound = entry.get("sound")
    return FilmSettings(
        sound=None if sound is None else folder / sound,
        order=tuple(entry.get("order", ())),
        crossfade=float(entry.get("crossfade", 0.0)),
        titles=bool(entry.get("titles", False)),
    )
