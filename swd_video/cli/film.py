"""`swd-video film DIR`: the clips of a folder in, one film and its timelines out."""

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from swd_video.cli.arguments import JsonFlag, OptionalScriptFile, read_arguments
from swd_video.studio.script import FilmSettings, check_script, load_script

_DESCRIPTION = """Join the clips of a rendered script: film.mp4, film.otio, film.fcpxml, film.edl, film.json, and a page
that plays everything, player.html.

What is only cut is copied, not encoded again. Without SCRIPT the film is made of what was rendered into the folder
last. docs/film.md explains order, trims, crossfades, titles and sound.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video film`."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that `swd-video render` filled."""
    script: OptionalScriptFile = None
    """Script of the clips, where it was edited since: for order, trims, transitions, titles and picks."""
    sound: Path | None = None
    """Sound file to lay under the film, in place of the script's."""
    order: tuple[str, ...] = ()
    """Ids of the shots to show, in this order, in place of the script's."""
    crossfade: float | None = None
    """Seconds of the crossfade into every shot that has no transition of its own; 0 for cuts."""
    titles: bool = False
    """Begin with the script's title and show those of the shots."""
    tidy: bool = False
    """Move clips and drafts of shots that the script names no longer into the folder's unused/."""
    reader: str | None = None
    """Reader of the script, as for `swd-video render`."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: what film.json holds."""


def run(argv: list[str]) -> int:
    """Make the film; returns 0."""
    arguments = read_arguments(Arguments, "film", argv, _DESCRIPTION)
    from swd_video.files import alone_in
    from swd_video.studio.film import make_film
    from swd_video.studio.film_record import script_of_folder
    from swd_video.studio.folder import FILM_NAME, PLAYER_NAME
    from swd_video.studio.player import write_player
    from swd_video.studio.sources import check_sources
    from swd_video.studio.unused import see_to_unused

    folder: Path = arguments.folder
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Name one that `swd-video render` has filled.")
    given = arguments.script
    script = script_of_folder(folder) if given is None else load_script(given, arguments.reader)
    script = check_script(replace(script, film=_settings(arguments, script.film_settings)))
    check_sources(replace(script, path=given or Path()), folder)
    say = partial(print, file=sys.stderr, flush=True)
    with alone_in(folder, "DIR"):
        record = make_film(script, folder, say=say)
        write_player(folder)
        # What is begun or drafted may be of a later script than the one that was rendered last.
        ids, begun = [shot.id for shot in script.shots], given is not None
        see_to_unused(ids, folder, begun=begun, tidy_up=arguments.tidy, say=say)
    if arguments.json_output:
        print(json.dumps({**record, "film": str((folder / FILM_NAME).resolve())}))
    else:
        count, done = len(record["clips"]), "" if record["made"] else ", as it was"
        print(
            f"{count} clip{'' if count == 1 else 's'}, {record['frames']} frames, {record['seconds']:.4g} s, "
            f"{record['encoded_frames']} frames encoded again{done}: {folder / FILM_NAME}, {folder / PLAYER_NAME}"
        )
    return 0


def _settings(arguments: Arguments, settings: FilmSettings) -> FilmSettings:
    """The script's settings, and those of the command line in their place."""
    if arguments.crossfade is not None and not 0 <= arguments.crossfade < float("inf"):
        raise ValueError(f"--crossfade: expected seconds from 0, such as 0.5, got {arguments.crossfade:g}.")
    asked: dict[str, Any] = {
        "sound": arguments.sound,
        "order": arguments.order or None,
        "crossfade": arguments.crossfade,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return replace(settings, **given, titles=arguments.titles or settings.titles, flags=tuple(given))
