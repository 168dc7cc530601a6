"""What a run reads must not lie where it writes."""

import re
from pathlib import Path

from swd_video.studio.folder import (
    DRAFTS_FOLDER,
    DRAFTS_PAGE_NAME,
    DRAFTS_REPORT_NAME,
    DRAFTS_SHEET_NAME,
    EDL_NAME,
    FCPXML_NAME,
    FILM_NAME,
    FILM_RECORD_NAME,
    OTIO_NAME,
    PICKS_NAME,
    PLAYER_NAME,
    REPORT_NAME,
    SHEET_NAME,
)
from swd_video.studio.script import Script

_OF_A_RUN = {
    REPORT_NAME,
    SHEET_NAME,
    PICKS_NAME,
    DRAFTS_PAGE_NAME,
    DRAFTS_REPORT_NAME,
    DRAFTS_SHEET_NAME,
    FILM_NAME,
    FILM_RECORD_NAME,
    OTIO_NAME,
    FCPXML_NAME,
    EDL_NAME,
    PLAYER_NAME,
}
_PAGE = re.compile(r"(contact_sheet|drafts)_[0-9]+\.(png|html)")
_OF_A_CLIP = re.compile(r"(-take[0-9]+)?\.(mp4|webp|json|preview\.webp|latents\.safetensors)")


def check_sources(script: Script, out: Path) -> None:
    """Refuse a script, a sound or a picture that has the name of a file that commands write into the folder.

    Raises:
        ValueError: naming it.
    """
    sources = {"the script": script.path, "the film's sound": script.film_settings.sound}
    sources |= {f"the picture of {shot.id}": shot.picture for shot in script.shots}
    for what, path in sources.items():
        folders = (out.resolve(), (out / DRAFTS_FOLDER).resolve())
        if path is None or not path.is_file() or path.resolve().parent not in folders:
            continue
        name = path.resolve().name
        of_clip = any(
            name.startswith(shot.id) and _OF_A_CLIP.fullmatch(name[len(shot.id) :]) for shot in script.shots
        )
        if of_clip or name in _OF_A_RUN or _PAGE.fullmatch(name):
            raise ValueError(
                f"{path}: is {what}, and the name of a file that is written into this folder. Rename it, or choose "
                "another folder for the clips."
            )
