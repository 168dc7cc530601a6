"""What lies where in a folder of clips, and how its JSON files are read back."""

import json
from pathlib import Path
from typing import Any

REPORT_NAME = "render.json"
SHEET_NAME = "contact_sheet.png"
DRAFTS_FOLDER = "drafts"
PICKS_NAME = "picks.json"
FILM_NAME, FILM_RECORD_NAME = "film.mp4", "film.json"
PLAYER_NAME = "player.html"


def state_file(name: str, out: Path) -> Path:
    """Where a clip of this name waits for its next stage, or to be decoded."""
    return out / f"{name}.latents.safetensors"


def stage_preview(name: str) -> str:
    """Name of the file that shows how far a clip is, while it is made."""
    return f"{name}.preview.webp"


def sidecar_file(name: str, out: Path) -> Path:
    """The JSON file beside a finished clip."""
    return out / f"{name}.json"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
