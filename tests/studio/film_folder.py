"""A folder as `render` leaves it, with clips that are quickly made, for tests of films and players."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from swd_video.data.video import write_video
from swd_video.files import hash_file, write_json
from swd_video.studio.film_record import film_entry, shot_entry
from swd_video.studio.script import Script
from swd_video.studio.yaml_script import parse_script

SCRIPT = """\
title: Three colours
shots:
  - {id: red, prompt: a red wall}
  - {id: green, prompt: a green wall, takes: 2}
  - {id: blue, prompt: a blue wall}
"""

COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}


def pictures(name: str, count: int = 17, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frames of one colour with a square that moves, lower in every further take."""
    shot_id, _, take = name.partition("-take")
    frames = np.full((count, *size, 3), COLOURS[shot_id], np.uint8)
    for number, frame in enumerate(frames):
        left = 8 * (number % 7)
        frame[4 * int(take or 1) :, left : left + 8] = 255
    return frames


def write_take(folder: Path, script: Script, name: str, frames: np.ndarray, fps: float = 16.0) -> None:
    """A clip with its sidecar."""
    shot_id, _, number = name.partition("-take")
    shot = next(shot for shot in script.shots if shot.id == shot_id)
    take = script.take(shot, int(number or 1))
    (folder / f"{name}.mp4").write_bytes(_encoded(frames.tobytes(), frames.shape, fps))
    (folder / f"{name}.webp").write_bytes(b"a preview")
    files = {file: hash_file(folder / file) for file in (f"{name}.mp4", f"{name}.webp")}
    about = {
        "id": shot_id,
        "take": take.take,
        "prompt": shot.prompt,
        "seed": take.seed,
        "model": "some-student",
    }
    write_json(folder / f"{name}.json", {**about, "content_hash": "0", "files": files})


@cache
def _encoded(frames: bytes, shape: tuple[int, ...], fps: float) -> bytes:
    """The file of a clip; tests ask for the same few again and again."""
    with TemporaryDirectory() as folder:
        write_video(f"{folder}/clip.mp4", np.frombuffer(frames, np.uint8).reshape(shape), fps)
        return Path(folder, "clip.mp4").read_bytes()


def write_folder(folder: Path, text: str = SCRIPT) -> Script:
    """All takes of a script, and `render.json`."""
    script = parse_script(text, folder / "script.yaml")
    entries = []
    for take in script.takes():
        frames = pictures(take.name)
        write_take(folder, script, take.name, frames)
        about = {"id": take.shot.id, "take": take.take, "prompt": take.shot.prompt, "seed": take.seed}
        about |= {"file": f"{take.name}.mp4", "width": 64, "height": 48, "fps": 16.0, "frames": len(frames)}
        entries.append({**about, "seconds": len(frames) / 16, "status": "rendered", **shot_entry(take.shot)})
    record = {"title": script.title, "model": "some-student", "seed": script.seed, "shots": entries}
    if picked := [shot.id for shot in script.shots if shot.pick]:
        record["picked_in_script"] = picked
    if script.film is not None:
        record["film_settings"] = film_entry(script.film, folder)
    (folder / "render.json").write_text(json.dumps(record))
    return script
