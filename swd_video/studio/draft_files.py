"""The files of a draft: what the first stages of a take showed, and what that was made of.

A draft is there when its JSON file is, which is written last. Its clean latents and its noise wait beside it, in the
same file that any take leaves between two stages, so that `render` finishes this very draft.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from swd_video.data.video import write_preview
from swd_video.files import hash_file, write_json
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.clip_files import decode, shrink, stages_of
from swd_video.studio.clips import PlannedClip
from swd_video.studio.folder import DRAFTS_FOLDER, are_whole, read_object, sidecar_file, state_file
from swd_video.studio.model import ScriptModel
from swd_video.studio.take_state import TakeState

# What a clip is made of, as people call it.
_WORDS = {
    "stages": "schedule or size",
    "size": "size",
    "fps": "frame rate",
    "picture": "picture",
    "continues": "clip that it continues",
    "after": "clip that it continues",
    "read_as": "prompt",
    "render_version": "version of this program",
}
_WORDS_OF_MODEL = ("student", "device", "precision")
_WORDS_OF_METADATA = {"prompt": "prompt", "seed": "seed", "model": "student"}


@dataclass(frozen=True)
class KeptDraft:
    """What lies in the folder of a take.

    Attributes:
        about: Its JSON file; empty where there is none.
        is_whole: Whether its preview is there, as the JSON file says.
        stages: How many stages of this very clip are done and can be gone on from.
        is_shown: Whether its preview shows them as they would be shown now.
        differs: Where it is of another clip: in what.
    """

    about: Mapping[str, Any]
    is_whole: bool = False
    stages: int = 0
    is_shown: bool = False
    differs: str = ""


def find_draft(clip: PlannedClip, out: Path) -> KeptDraft:
    """What an earlier run left of a take."""
    folder = out / DRAFTS_FOLDER
    about = read_object(sidecar_file(clip.name, folder))
    preview, stages = folder / f"{clip.name}.webp", about.get("stage")
    if type(stages) is not int:
        return KeptDraft({})
    is_whole = are_whole(about.get("files"), {preview.name}, folder)
    if about.get("stages_hash") != clip.stages_hash:
        return KeptDraft(about, is_whole, differs=_differences(about.get("made_of"), clip.made_of))
    if not state_file(clip.name, folder).is_file():
        return KeptDraft(about, is_whole)
    is_shown = is_whole and about.get("content_hash") == clip.content_hash
    return KeptDraft(about, is_whole, stages, is_shown)


def show_drafts(
    clips: Sequence[PlannedClip], states: Sequence[TakeState], pipe: ScaleWisePipeline
) -> list[UInt8[np.ndarray, "frames height width 3"]]:
    """Small clips of what the takes are like after their stages, all of which have one size.

    They are decoded two at a time, which takes a third less for each on a CPU; one that is alone is doubled, so that
    what is shown of a take does not depend on others.

    Raises:
        FloatingPointError: The decoder made values that are not numbers.
    """
    shown: list[UInt8[np.ndarray, "frames height width 3"]] = []
    for first in range(0, len(clips), 2):
        pair = [states[row] for row in (first, min(first + 1, len(clips) - 1))]
        latents = torch.cat([state.after.latents for state in pair if state.after is not None])
        frames: list[list[UInt8[np.ndarray, "height width 3"]]] = [[], []]
        for part in decode(latents, pipe):
            for row, pictures in enumerate(part):
                frames[row] += [shrink(picture) for picture in pictures]
        shown += [np.stack(pictures) for pictures in frames]
    return shown[: len(clips)]


def write_draft(
    clip: PlannedClip,
    state: TakeState,
    frames: UInt8[np.ndarray, "frames height width 3"],
    seconds: float,
    model: ScriptModel,
    out: Path,
) -> None:
    """Write the preview, which lasts as long as the clip will, and then the JSON file.

    `seconds` is the wall time that the draft took.
    """
    folder = out / DRAFTS_FOLDER
    preview = folder / f"{clip.name}.webp"
    write_preview(preview, frames, len(frames) / clip.seconds)
    about = {
        **clip.take.as_dict(),
        "model": model.name,
        "seconds": round(clip.seconds, 6),
        "stage": state.stages,
        "stages": stages_of(clip),
        "content_hash": clip.content_hash,
        "stages_hash": clip.stages_hash,
        "made_of": dict(clip.made_of),
        "stage_seconds": state.stage_seconds,
        "draft_seconds": round(seconds, 4),
        "files": {preview.name: hash_file(preview)},
    }
    write_json(sidecar_file(clip.name, folder), about)


def _differences(old: Any, new: Mapping[str, Any]) -> str:
    """In what two clips differ, in words."""
    if not isinstance(old, Mapping):
        return "version of this program"
    new = json.loads(json.dumps(new))  # tuples are lists in a file
    words = [
        word
        for key, word in _WORDS.items()
        if old.get(key) != new.get(key) and not (key == "stages" and old.get("size") != new.get("size"))
    ]
    was, model = old.get("model"), new["model"]
    if isinstance(was, list):
        words += [word for word, one, other in zip(_WORDS_OF_MODEL, was, model, strict=False) if one != other]
        count = len(_WORDS_OF_MODEL)
        words += ["batch or setting of the model"] if was[count:] != model[count:] else []
    before, now = old.get("metadata"), new["metadata"]
    if isinstance(before, Mapping):
        words += [word for key, word in _WORDS_OF_METADATA.items() if before.get(key) != now[key]]
    return ", ".join(dict.fromkeys(words)) or "version of this program"
