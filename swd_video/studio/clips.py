"""From the shots of a script to the exact clips to render: frames, size, schedule, and a hash of it all."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swd_video.core.grid import PixelSize
from swd_video.files import hash_file
from swd_video.models.words import describe_unknown, knows_nothing, unknown_words, with_known_words
from swd_video.studio.model import ScriptModel
from swd_video.studio.pictures import open_picture
from swd_video.studio.script import Script, Shot, Take
from swd_video.studio.sizes import ShotSizes
from swd_video.yaml_source import SourceError

_TEXT_ALONE = (
    "{} makes clips from text alone. Drop the key, or use a student of a model that can start from a picture."
)

RENDER_VERSION = 1
"""Raised whenever the same script and model would give other bytes; clips of older versions are made anew."""


@dataclass(frozen=True)
class PlannedClip:
    """One clip to render, with everything that its bytes depend on.

    Attributes:
        take: The shot, the take number and the seed.
        size: Size in pixels, as the VAE makes it.
        shown_size: Size in pixels of the files, which is larger where a decoder upscales.
        fps: Frames per second.
        stages: Noise level and size in pixels of every stage.
        metadata: Text stored in the video file.
        content_hash: Hash of all this, the model's weights and `RENDER_VERSION`.
        stages_hash: The same, less what only decoding depends on.
        prompt: What the model is given: the shot's, unknown words in a form that it knows where there is one.
        unknown_words: Words of it that the model does not know, with the known ones nearest to each.
        continues: Name of the clip whose last picture it starts from. What that one's bytes are is not known before it
            is finished, and not in the hashes: see `continuation.joined`.
        after: The file of that clip, once it is finished.
        made_of: What `stages_hash` depends on, as JSON values.
    """

    take: Take
    size: PixelSize
    shown_size: PixelSize
    fps: float
    stages: tuple[tuple[float, PixelSize], ...]
    metadata: Mapping[str, str]
    content_hash: str
    stages_hash: str
    prompt: str
    unknown_words: Mapping[str, list[str]]
    continues: str | None
    after: Path | None = None
    made_of: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """File name without suffix."""
        return self.take.name

    @property
    def seconds(self) -> float:
        """Exact length of the clip."""
        return self.size.frames / self.fps

    def shown(self) -> dict[str, Any]:
        """What its files show, as plain values: sizes are in pixels."""
        return {
            "frames": self.shown_size.frames,
            "width": self.shown_size.width,
            "height": self.shown_size.height,
            "fps": self.fps,
            "seconds": round(self.seconds, 6),
        }


class _Problems:
    """Where errors of shots go: into a list, or to whoever called."""

    def __init__(self, found: list[SourceError] | None) -> None:
        self.found, self.shots = found, set[str]()

    @contextmanager
    def of(self, shot: Shot) -> Iterator[None]:
        """A context whose error is one of this shot."""
        try:
            yield
        except SourceError as error:
            if self.found is None:
                raise
            self.found.append(error)
            self.shots.add(shot.id)


def plan_clips(
    script: Script,
    model: ScriptModel,
    problems: list[SourceError] | None = None,
    takes: Iterable[Take] | None = None,
) -> list[PlannedClip]:
    """Work out clips of a script for a model.

    `problems` takes what else would be raised; shots with problems have no clips then. `takes` are by default those
    that the shots ask for.

    Raises:
        SourceError: A shot asks for a length or size that the model cannot make, says more than it reads or nothing
            that it knows, or starts from a picture that cannot be used.
    """
    told = _Problems(problems)
    sizes = ShotSizes(script, model)
    prompts = _read_prompts(script, model, told)
    for shot in script.shots:
        with told.of(shot):
            sizes.of(shot)
    pictures = _hash_pictures(script, model, sizes, told)
    continued = _continued_takes(script, model, sizes, told)
    return [
        _plan_clip(
            take,
            model,
            sizes.of(take.shot),
            *prompts[take.shot.prompt],
            picture=None if take.shot.picture is None else pictures[take.shot.picture],
            continues=continued.get(take.shot.id),
        )
        for take in (script.takes() if takes is None else takes)
        if take.shot.id not in told.shots
    ]


def _plan_clip(
    take: Take,
    model: ScriptModel,
    size: PixelSize,
    prompt: str,
    unknown: Mapping[str, list[str]],
    *,
    picture: str | None,
    continues: str | None,
) -> PlannedClip:
    together = [f"batch {model.batch}"] if model.batch > 1 else []
    stages = tuple(
        (stage.sigma, model.pipe.compression.pixel_size(stage.grid)) for stage in model.schedule_of(size)
    )
    metadata = {
        "title": take.name,
        "comment": take.shot.prompt,
        "prompt": take.shot.prompt,
        "seed": str(take.seed),
        "model": model.name,
    }
    fields: dict[str, Any] = {
        "render_version": RENDER_VERSION,
        "model": [model.fingerprint, model.device, model.dtype, *model.options, *together],
        "size": size.as_tuple(),
        "fps": model.pipe.fps,
        "stages": [[sigma, *stage_size.as_tuple()] for sigma, stage_size in stages],
        "metadata": metadata,
    }
    if picture is not None:
        fields["picture"] = picture
    if continues is not None:
        fields["continues"] = continues
    if prompt != take.shot.prompt:
        fields["read_as"] = prompt
    return PlannedClip(
        take=take,
        size=size,
        shown_size=model.pipe.model.shown_size(model.pipe.compression.latent_size(size)),
        fps=model.pipe.fps,
        stages=stages,
        metadata=metadata,
        content_hash=hash_content(fields | {"model": [*fields["model"], *model.decoding]}),
        stages_hash=hash_content(fields),
        prompt=prompt,
        unknown_words=unknown,
        continues=continues,
        made_of=fields,
    )


def prompt_warnings(script: Script, clips: Sequence[PlannedClip]) -> list[str]:
    """What the model does not read as it is written, a line for each prompt."""
    first = {clip.take.shot.id: clip for clip in reversed(clips)}
    lines = []
    for shot in script.shots:
        clip, told = first.get(shot.id), []
        if clip is None:  # refused for something else
            continue
        if clip.unknown_words:
            words = describe_unknown(clip.unknown_words)
            told.append(f"unknown to {clip.metadata['model']}, which shows nothing of them: {words}.")
        if clip.prompt != shot.prompt:
            told.append(f"read as {clip.prompt!r}.")
        if told:
            lines.append(str(script.shot_error(shot, "prompt", " ".join(told))))
    return lines


def length_notes(clips: Sequence[PlannedClip]) -> list[str]:
    """Lengths that are not quite as asked for, a line for each."""
    shots: dict[tuple[float, int], dict[str, PlannedClip]] = {}
    for clip in clips:
        asked = clip.take.shot.seconds
        if asked is not None and abs(asked - clip.seconds) >= 5e-4:
            shots.setdefault((asked, clip.size.frames), {}).setdefault(clip.take.shot.id, clip)
    lines = []
    for (asked, frames), found in shots.items():
        first, more = next(iter(found.items())), len(found) - 1
        others = f" and {more} more shot{'' if more == 1 else 's'}" if more else ""
        lines.append(f"{first[0]}{others}: {frames} frames, {first[1].seconds:.4g} s (asked for {asked:g} s)")
    return lines


def _read_prompts(
    script: Script, model: ScriptModel, problems: _Problems
) -> dict[str, tuple[str, dict[str, list[str]]]]:
    """Every prompt as the model is given it, with the words that it does not know."""
    readings: dict[str, tuple[str, dict[str, list[str]]]] = {}
    for shot in script.shots:
        if shot.prompt not in readings:
            with problems.of(shot):
                readings[shot.prompt] = _read_prompt(script, shot, model)
    return readings


def _read_prompt(script: Script, shot: Shot, model: ScriptModel) -> tuple[str, dict[str, list[str]]]:
    """A prompt whose end the text encoder would never see is refused, and one of which it would see nothing."""
    prompt = with_known_words(model.tokenizer, shot.prompt)
    count = model.pipe.model.count_tokens(prompt)
    if count > (limit := model.pipe.model.max_tokens):
        problem = f"has {count} tokens, and {model.name} reads {limit}: its end would be lost. Shorten it."
        raise script.shot_error(shot, "prompt", problem)
    unknown = unknown_words(model.tokenizer, prompt)
    if knows_nothing(model.tokenizer, prompt):
        words = f": {describe_unknown(unknown)}" if unknown else ""
        problem = (
            f"{model.name} knows not one word of it{words}. Write it in words that the model was trained on."
        )
        raise script.shot_error(shot, "prompt", problem)
    return prompt, unknown


def _hash_pictures(
    script: Script, model: ScriptModel, sizes: ShotSizes, problems: _Problems
) -> dict[Path, str]:
    """Hashes of the bytes of all pictures, after a look at each."""
    hashes: dict[Path, str] = {}
    fitting: set[tuple[Path, int, int]] = set()
    for shot in script.shots:
        if shot.picture is None or shot.id in problems.shots:
            continue
        with problems.of(shot):
            if not model.takes_pictures:
                raise script.shot_error(shot, "picture", _TEXT_ALONE.format(model.name))
            size = sizes.of(shot)
            if (place := (shot.picture, size.height, size.width)) in fitting:
                continue
            try:
                open_picture(shot.picture, size)
            except ValueError as error:
                raise script.shot_error(shot, "picture", str(error)) from None
            fitting.add(place)
            if shot.picture not in hashes:
                hashes[shot.picture] = hash_file(shot.picture)
    return hashes


def _continued_takes(
    script: Script, model: ScriptModel, sizes: ShotSizes, problems: _Problems
) -> dict[str, str]:
    """By the id of a shot, the name of the clip that it continues."""
    shots = {shot.id: shot for shot in script.shots}
    names = {}
    for shot in script.shots:
        if shot.continues is None:
            continue
        if shot.continues in problems.shots:
            problems.shots.add(shot.id)
        if shot.id in problems.shots:
            continue
        before = shots[shot.continues]
        with problems.of(shot):
            if not model.takes_pictures:
                raise script.shot_error(shot, "continues", _TEXT_ALONE.format(model.name))
            size, own = sizes.of(before), sizes.of(shot)
            if (size.height, size.width) != (own.height, own.width):
                raise script.shot_error(
                    shot,
                    "continues",
                    f"{before.id} is {size.width}x{size.height} pixels (width x height) and this shot "
                    f"{own.width}x{own.height}. Give both the same `size`.",
                )
            names[shot.id] = script.shown_take(before).name
    return names


def hash_content(fields: Mapping[str, Any]) -> str:
    """Return a hash of plain JSON values; the order of keys does not matter."""
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
