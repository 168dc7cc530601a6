"""Scripts written as YAML, which is read back to the same shots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swd_video.files import path_from
from swd_video.studio.script import FilmSettings, Script, Shot
from swd_video.yaml_source import dump_values


def script_as_yaml(script: Script, folder: Path) -> str:
    """The text of a YAML file in `folder`, at which its paths start, that asks for the same clips and the same film."""
    top: dict[str, Any] = {"title": script.title, "model": script.model, "seed": script.seed}
    if script.film is not None:
        top["film"] = _film(script.film, folder)
    # Shot by shot, so that an empty line can stand between them.
    shots = "\n".join(_indented(dump_values([_shot(shot, folder)])) for shot in script.shots)
    return f"{dump_values(top)}\nshots:\n{shots}"


def _shot(shot: Shot, folder: Path) -> dict[str, Any]:
    size = None if shot.size is None else f"{shot.size[1]}x{shot.size[0]}"
    transition = None
    if shot.transition is not None:
        transition = "cut" if shot.transition.kind == "cut" else f"crossfade {shot.transition.seconds!r}"
    keep: bool | list[int] = shot.keep if isinstance(shot.keep, bool) else list(shot.keep)
    return _given(
        {
            "id": shot.id,
            "prompt": shot.prompt,
            "picture": None if shot.picture is None else path_from(folder, shot.picture),
            "seconds": shot.seconds,
            "frames": shot.frames,
            "size": size,
            "aspect": shot.aspect,
            "seed": shot.seed,
            "takes": None if shot.takes == 1 else shot.takes,
            "pick": list(shot.pick) or None,
            "keep": keep or None,
            "continues": shot.continues,
            "title": shot.title,
            "trim": None if shot.trim is None else list(shot.trim),
            "transition": transition,
            "marker": shot.marker,
        }
    )


def _film(film: FilmSettings, folder: Path) -> dict[str, Any]:
    return _given(
        {
            "sound": None if film.sound is None else path_from(folder, film.sound),
            "order": list(film.order) or None,
            "crossfade": film.crossfade or None,
            "titles": film.titles or None,
        }
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _indented(text: str) -> str:
    return "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True))
