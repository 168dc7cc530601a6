"""A film of a folder's clips: `film.mp4`, timelines for editing programs, and `film.json`, which lists what plays when.

A film that is as asked already is left alone. All files appear whole, and `film.json` comes last.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swd_video.data.video_joining import Copied, Sound, join_video, parameter_sets
from swd_video.files import hash_file, path_from, write_json
from swd_video.studio.film_pictures import cut_titles, film_pieces
from swd_video.studio.film_plan import (
    FilmClip,
    FilmPlan,
    as_fraction,
    lay_out,
    plan_film,
    shots_of_film,
    sound_length,
)
from swd_video.studio.folder import (
    EDL_NAME,
    FCPXML_NAME,
    FILM_NAME,
    FILM_RECORD_NAME,
    OTIO_NAME,
    are_whole,
    read_object,
)
from swd_video.studio.script import Script

FILM_VERSION = 2
"""Raised whenever the same clips and settings would give another film."""

_TIMELINE_PACKAGES = ("opentimelineio", "otio_cmx3600_adapter", "otio_fcpx_xml_adapter")


def make_film(
    script: Script,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make the film of a script from the clips in a folder; call it where nobody else writes there.

    Returns:
        The content of `film.json`; `made` tells whether the film is new.

    Raises:
        ValueError: A clip is missing or too short for what is asked, or the sound cannot be read.
        OSError: The folder cannot be written to.
    """
    plan = plan_film(script, folder)
    for line in (*plan.notes, *cut_titles(plan)):
        say(line)
    has_timelines = all(map(find_spec, _TIMELINE_PACKAGES))
    if not has_timelines:
        say(
            "no timelines for editing programs: pip install 'swd-video[film]' for film.otio, film.fcpxml and film.edl."
        )
    described = _describe(plan, folder)
    content = {"version": FILM_VERSION, "timelines": has_timelines, **described}
    if (sound := script.film_settings.sound) is not None:
        content["sound_hash"] = hash_file(sound)
    content_hash = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    before = read_object(folder / FILM_RECORD_NAME)
    if before.get("content_hash") == content_hash and are_whole(before.get("files"), {FILM_NAME}, folder):
        return {**before, "made": False}
    encoded = _write_video(plan, folder / FILM_NAME)
    names = [FILM_NAME]
    if has_timelines:
        from swd_video.studio.timeline import write_timelines

        names += write_timelines(plan, folder)
    for name in {OTIO_NAME, FCPXML_NAME, EDL_NAME} - set(names):  # of an earlier film
        (folder / name).unlink(missing_ok=True)
    files = {name: hash_file(folder / name) for name in names}
    record = {**described, "encoded_frames": encoded, "content_hash": content_hash, "files": files}
    write_json(folder / FILM_RECORD_NAME, record)
    return {**record, "made": True}


def check_film(script: Script, frames: Mapping[str, int], fps: float) -> None:
    """Find out before clips are rendered whether the script's film can be made of them.

    The script has what was picked; `frames` are those of every clip that is to be there, by its name.

    Raises:
        SourceError: A clip will be too short for what is asked, or the sound cannot be read.
    """
    shots = shots_of_film(script)
    lengths = [frames[script.shown_take(shot).name] for shot in shots]
    lay_out(script, shots, lengths, as_fraction(fps))
    sound_length(script)


def _write_video(plan: FilmPlan, path: Path) -> int:
    """Write the film, and return how many frames of it had to be encoded."""
    pieces = list(film_pieces(plan, parameter_sets(plan.size, plan.fps)))
    sound, fades = plan.script.film_settings.sound, plan.sound_seconds > plan.seconds
    frames = join_video(
        path,
        pieces,
        plan.size,
        plan.fps,
        sound=None if sound is None else Sound(sound, plan.seconds, fades),
        metadata={"title": plan.script.title},
    )
    assert frames == plan.frames
    return frames - sum(piece.stop - piece.start for piece in pieces if isinstance(piece, Copied))


def _describe(plan: FilmPlan, folder: Path) -> dict[str, Any]:
    sound = plan.script.film_settings.sound
    return {
        "title": plan.script.title,
        "seconds": round(float(plan.seconds), 6),
        "frames": plan.frames,
        "fps": float(plan.fps),
        "width": plan.size[1],
        "height": plan.size[0],
        "title_frames": plan.card,
        "sound": None if sound is None else path_from(folder, sound),
        "clips": [_describe_clip(number, clip, plan) for number, clip in enumerate(plan.clips, 1)],
    }


def _describe_clip(number: int, clip: FilmClip, plan: FilmPlan) -> dict[str, Any]:
    shot, span = clip.take.shot, clip.span
    entry: dict[str, Any] = {
        "number": number,
        "id": shot.id,
        "take": clip.take.take,
        "file": clip.packets.path.name,
        "hash": hash_file(clip.packets.path),
        "prompt": clip.prompt,
        "seed": clip.sidecar.get("seed"),
        "at_seconds": round(float(span.at / plan.fps), 6),
        "at_frame": span.at,
        "frames": span.frames,
        "first_frame": span.start,
        "crossfade_frames": span.fade,
    }
    return entry | {key: text for key, text in (("title", shot.title), ("marker", shot.marker)) if text}
