"""One HTML page that plays a folder: the film, and every take in playing order. It needs no network."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swd_video.files import write_text
from swd_video.pages import page_template
from swd_video.studio.folder import (
    FILM_NAME,
    FILM_RECORD_NAME,
    PLAYER_NAME,
    REPORT_NAME,
    objects_at,
    read_object,
)

EMBEDDED_BYTES = 32 * 2**20
"""Up to this size of all clips the page holds them; beyond, it plays the files beside it."""

_TEMPLATE = Path(__file__).with_name("player.html.jinja")


def write_player(folder: Path, embedded_bytes: int = EMBEDDED_BYTES) -> Path:
    """Write the page of what `render.json` and `film.json` list.

    The page holds the clips itself where these weigh no more together than `embedded_bytes`.
    """
    report, film = read_object(folder / REPORT_NAME), read_object(folder / FILM_RECORD_NAME)
    if not (folder / FILM_NAME).is_file():
        film = {}
    shots = _shots(objects_at(report, "shots"), film)
    names = [take["file"] for shot in shots for take in shot["takes"] if take["file"]]
    files = [folder / name for name in [*names, *([FILM_NAME] if film else [])]]
    files = [file for file in files if file.is_file()]
    is_whole = sum(file.stat().st_size for file in files) <= embedded_bytes
    text = page_template(_TEMPLATE).render(
        title=report.get("title", folder.name),
        model=report.get("model", ""),
        seed=report.get("seed", ""),
        shots=shots,
        num_takes=sum(len(shot["takes"]) for shot in shots),
        film=film,
        film_name=FILM_NAME,
        chapters=film.get("clips", []),
        clock=_clock,
        embedded={file.name: base64.b64encode(file.read_bytes()).decode("ascii") for file in files}
        if is_whole
        else {},
    )
    write_text(folder / PLAYER_NAME, text)
    return folder / PLAYER_NAME


def _shots(entries: Iterable[Mapping[str, Any]], film: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Shots with their takes: those of the film first, in its order."""
    shots: dict[str, dict[str, Any]] = {}
    for clip in film.get("clips", []):
        shots.setdefault(clip["id"], {"id": clip["id"], "numbers": [], "takes": []})["numbers"].append(
            clip["number"]
        )
    played = {(clip["id"], clip["take"]) for clip in film.get("clips", [])}
    for entry in entries:
        shot = shots.setdefault(entry["id"], {"id": entry["id"], "numbers": [], "takes": []})
        # A take that is kept may be of an older prompt; it says so itself.
        prompt = entry["prompt"] if not entry.get("kept") else shot.get("prompt", entry["prompt"])
        shot |= {"prompt": prompt, "title": entry.get("title"), "marker": entry.get("marker")}
        shot["takes"].append({**entry, "in_film": (entry["id"], entry["take"]) in played})
    # A film may still show what the last run left out.
    return [shot for shot in shots.values() if shot["takes"]]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
