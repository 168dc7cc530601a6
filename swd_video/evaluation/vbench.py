"""The folders of clips that VBench and VBench-2.0 judge.

Both read clips by name: `PROMPT-INDEX.mp4`, where the prompt is that of their own lists, whatever a model was given
instead of it. VBench wants all clips in one folder, VBench-2.0 a folder for each dimension, and names cut to 180
characters. Neither folder may hold anything else: they learn the suffix of clips from the first file they find.

Source: VBench (arXiv 2311.17982) and VBench-2.0 (arXiv 2503.21755), "how to sample videos" in their repository.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swd_video.core.randomness import keyed_seed
from swd_video.data.share import Share
from swd_video.data.texts import read_prompts
from swd_video.data.video import write_video
from swd_video.evaluation.rows import PromptRequest, Row
from swd_video.files import remove_leftovers, write_json

RECORD_NAME = "vbench.json"
VIDEOS_FOLDER = "videos"
# File systems take 255 bytes; the name that a clip has while it is written is a little longer.
_MAX_NAME_BYTES = 240


@dataclass(frozen=True)
class Suite:
    """How a benchmark wants its clips.

    Attributes:
        samples: Clips of a prompt.
        more_samples: The same for dimensions that need more.
        by_dimension: Whether each dimension has a folder of its own.
        name_length: Characters of a prompt that a file's name keeps; None keeps all.
    """

    samples: int
    more_samples: Mapping[str, int]
    by_dimension: bool
    name_length: int | None


SUITES = {
    # 25: a filter that drops moving clips comes before the measurement.
    "vbench": Suite(5, {"temporal_flickering": 25}, by_dimension=False, name_length=None),
    "vbench2": Suite(3, {"Diversity": 20}, by_dimension=True, name_length=180),
}


@dataclass(frozen=True)
class BenchClip:
    """A clip to make.

    Attributes:
        path: Below the folder of videos.
        prompt: What the model is given.
        index: Number of the sample.
        seed: Of its noise.
    """

    path: str
    prompt: str
    index: int
    seed: int


def plan_bench(
    suite: Suite, prompt_files: Sequence[Path], model_prompt_files: Sequence[Path] = (), *, seed: int = 0
) -> list[BenchClip]:
    """List every clip that a benchmark wants.

    There is a text file for each dimension, named like it, with a prompt on each line; further ones may hold as many
    longer prompts that the model is given instead. The seed of a clip follows from `seed`, its prompt in the list and
    its number.

    Raises:
        ValueError: If a list cannot be read, two clips would share a name, or a name is not possible.
    """
    if model_prompt_files and len(model_prompt_files) != len(prompt_files):
        raise ValueError(
            f"--model-prompts: got {len(model_prompt_files)} files for {len(prompt_files)} of --prompts; give one for "
            "each, in the same order."
        )
    clips: dict[str, BenchClip] = {}
    named: dict[str, str] = {}
    for number, file in enumerate(prompt_files):
        prompts = read_prompts(file)
        given = read_prompts(model_prompt_files[number]) if model_prompt_files else prompts
        if len(given) != len(prompts):
            raise ValueError(
                f"{model_prompt_files[number]}: has {len(given)} prompts, {file} has {len(prompts)}; they must "
                "correspond line by line."
            )
        for prompt, shown in zip(prompts, given, strict=True):
            stem = _stem(prompt, file, suite)
            if named.setdefault(stem, prompt) != prompt:
                raise ValueError(
                    f"{file}: {prompt!r} and {named[stem]!r} have the same first {suite.name_length} characters and "
                    "would share a file; drop one."
                )
            for index in range(suite.more_samples.get(file.stem, suite.samples)):
                path = f"{stem}-{index}.mp4"
                clips.setdefault(
                    path, BenchClip(path, shown, index, keyed_seed(seed, "vbench", prompt, index))
                )
    return list(clips.values())


def write_bench(
    folder: Path,
    clips: Sequence[BenchClip],
    row: Row,
    about: Mapping[str, object],
    *,
    batch_size: int,
    share: Share,
) -> int:
    """Make the clips that are missing, in `folder/videos`; `folder/vbench.json` says what they are.

    Returns:
        How many clips were made.

    Raises:
        ValueError: If the folder holds clips of something else, or what says so is damaged.
    """
    videos = folder / VIDEOS_FOLDER
    record = {
        "about": dict(about),
        "row": row.digest(batch_size),
        "clips": [{"path": clip.path, "prompt": clip.prompt, "seed": clip.seed} for clip in clips],
    }
    _start_record(folder / RECORD_NAME, record)
    batches = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
    missing = [b for b in share.of(batches) if not all((videos / clip.path).is_file() for clip in b)]
    began, made = time.monotonic(), 0
    for done, batch in enumerate(missing, start=1):
        # The whole batch, even where one clip is missing: neighbours can change a clip's last bits.
        frames = row.make(
            [PromptRequest(clip.prompt, clip.index) for clip in batch], [clip.seed for clip in batch]
        )
        for clip, pictures in zip(batch, frames, strict=True):
            path = videos / clip.path
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, pictures, row.fps, metadata={"prompt": clip.prompt, "seed": str(clip.seed)})
            made += 1
        left = (time.monotonic() - began) / done * (len(missing) - done)
        print(f"{done} of {len(missing)} batches, about {left:.0f} s left", file=sys.stderr)
    if all((videos / clip.path).is_file() for clip in clips):
        for folder in {(videos / clip.path).parent for clip in clips}:
            remove_leftovers(folder)
    return made


def _stem(prompt: str, file: Path, suite: Suite) -> str:
    name = prompt[: suite.name_length]
    if "/" in name or "\0" in name or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{file}: {prompt!r} cannot be a file's name: it has a slash, or more than {_MAX_NAME_BYTES} bytes. Change "
            "it in the list."
        )
    return f"{file.stem}/{name}" if suite.by_dimension else name


def _start_record(path: Path, record: Mapping[str, object]) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no keys")
    except ValueError:
        raise ValueError(
            f"{path}: is damaged. Delete it if the clips beside it are of the same model, prompts and settings; else "
            "choose another --out."
        ) from None
    for key in ("row", "clips"):
        if found.get(key) != record[key]:
            what = "another model or settings" if key == "row" else "other prompts or seeds"
            raise ValueError(f"{path}: holds clips of {what}. Choose another --out, or delete the folder.")
