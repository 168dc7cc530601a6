"""What a script would become: its clips, problems, memory and time, without a network being loaded or run."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from swd_video.cost.architecture import Architecture
from swd_video.cost.working_memory import working_bytes
from swd_video.models.devices import Device, Precision, choose_device, choose_precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.studio.clip_files import as_kept, film_frames, is_finished, kept_sidecar
from swd_video.studio.clip_times import estimate_seconds
from swd_video.studio.clips import PlannedClip, plan_clips, prompt_warnings
from swd_video.studio.continuation import in_chain_order, joined, video_hash
from swd_video.studio.film import check_film
from swd_video.studio.folder import DRAFTS_FOLDER, REPORT_NAME, read_object, state_file
from swd_video.studio.model import ScriptModel, load_model_for_planning
from swd_video.studio.picks import takes_in, with_picks
from swd_video.studio.script import Script
from swd_video.studio.take_state import check_batch, drafted_together, read_state
from swd_video.yaml_source import SourceError

_GIB = 2**30


@dataclass(frozen=True)
class CheckedClip:
    """A clip of the script.

    Attributes:
        finished: Whether its files are there.
        kept: Sidecar of what the script keeps in its place.
        stages: How many of its stages are computed and wait to be gone on from.
    """

    clip: PlannedClip
    finished: bool = False
    stages: int = 0
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What its files show or will show, as plain values; sizes in pixels."""
        kept = as_kept(self.kept) if self.kept else {}
        return {**self.clip.take.as_dict(), "line": self.clip.take.shot.line, **self.clip.shown(), **kept}

    def as_dict(self) -> dict[str, Any]:
        """Plain values; sizes in pixels."""
        clip = self.clip
        shot = clip.take.shot
        return {
            **self.about,
            "asked_seconds": shot.seconds,
            "status": self.status,
            "stages_done": len(clip.stages) if self.finished else self.stages,
            **({} if clip.prompt == shot.prompt or self.kept else {"read_as": clip.prompt}),
            **({"unknown_words": clip.unknown_words} if clip.unknown_words and not self.kept else {}),
        }

    @property
    def status(self) -> str:
        """Where it stands, in a word."""
        return "finished" if self.finished else "begun" if self.stages else "to do"


@dataclass(frozen=True)
class Check:
    """What was found out about a script.

    Attributes:
        script: What was checked, with what was picked by hand.
        problems: Why it cannot be rendered as it is, as `file:line: key: ...`.
        warnings: What a run would warn of.
        memory: "weights_gib" and "working_gib", both counted.
        content_hashes: Of every take of the script, and of its further ones in the folder, as their sidecars have it if
            they are of the script as it is; empty without a folder.
        time: "seconds" for what is not finished, "clip_seconds" on average, and "from": "measured" or "counted"; None
            where nothing can be said.
    """

    script: Script
    model: str
    clips: Sequence[CheckedClip]
    problems: Sequence[str]
    warnings: Sequence[str]
    memory: Mapping[str, float] | None
    time: Mapping[str, Any] | None
    content_hashes: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        statuses = Counter(clip.status for clip in self.clips)
        return {
            "script": str(self.script.path),
            "title": self.script.title,
            "model": self.model,
            "shots": len(self.script.shots),
            "clips": [clip.as_dict() for clip in self.clips],
            "seconds": round(sum(clip.about["seconds"] for clip in self.clips), 6),
            "finished": statuses["finished"],
            "begun": statuses["begun"],
            "content_hashes": self.content_hashes,
            "memory": self.memory,
            "time": self.time,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """The same for people, less problems and warnings."""
        width = max((len(clip.clip.name) for clip in self.clips), default=0)
        rows = [_row(clip, width) for clip in self.clips]
        statuses = Counter(clip.status for clip in self.clips)
        told = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        shots, clips = len(self.script.shots), len(self.clips)
        lines = [
            *rows,
            f"{shots} shot{'' if shots == 1 else 's'}, {clips} clip{'' if clips == 1 else 's'} of "
            f"{sum(clip.about['seconds'] for clip in self.clips):.4g} s for {self.model}: {told or 'none'}",
        ]
        if self.memory is not None:
            weights, working = self.memory["weights_gib"], self.memory["working_gib"]
            lines.append(f"memory: {weights + working:.3g} GiB, {weights:.3g} of them weights (counted)")
        if self.time is not None:
            lines.append(
                f"time: about {_duration(self.time['seconds'])} for what is not finished, "
                f"{_duration(self.time['clip_seconds'])} a clip ({self.time['from']} on {self.time['machine']})"
            )
        return lines


def check(
    script: Script,
    out: Path | None = None,
    *,
    model: str | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    options: LoadOptions = DEFAULT_OPTIONS,
    batch: int | None = None,
) -> Check:
    """Find out what rendering a script would make, and what of it is there already.

    Nothing is written into `out`, the folder of its clips. `batch`, the takes to compute together, is by default as the
    drafts there were made, else 1.

    Raises:
        ValueError: the model is not usable, or `out` is no folder.
    """
    check_batch(batch)
    if out is not None and not out.is_dir():
        if out.exists():
            raise ValueError(f"--out {out}: is no folder. Choose another one.")
        out = None
    if out is not None:
        script = with_picks(script, out)
    place = choose_device(device)
    precision = choose_precision(dtype, place)
    architecture, facts = load_model_for_planning(
        model or script.model, device=place, dtype=precision, options=options, hashed=out is not None
    )
    if batch is None:
        batch = 1 if out is None else drafted_together(out)
    facts = replace(facts, batch=batch)
    errors: list[SourceError] = []
    asked = list(script.takes())
    further = set() if out is None else takes_in(out, script) - set(asked)
    planned = plan_clips(script, facts, errors, takes=[*asked, *further])
    clips = [clip for clip in planned if clip.take not in further]
    if script.film is not None and not errors:  # else the lengths of some are not known
        try:
            kept = {clip.name: {} if out is None else kept_sidecar(clip, out) for clip in clips}
            check_film(
                script, {clip.name: film_frames(clip, kept[clip.name]) for clip in clips}, facts.pipe.fps
            )
        except SourceError as error:
            errors.append(error)
    checked, hashes = [CheckedClip(clip) for clip in clips], dict[str, str]()
    if out is not None:
        checked, hashes = _look_for(clips, [clip for clip in planned if clip.take in further], out)
    to_do = [clip.clip for clip in checked if not clip.finished]
    largest = max(clips, key=lambda clip: clip.size.frames * clip.size.height * clip.size.width, default=None)
    report = read_object(out / REPORT_NAME) if out is not None else {}
    return Check(
        script=script,
        model=facts.name,
        clips=checked,
        problems=[str(error) for error in sorted(errors, key=_line)],
        warnings=[*script.warnings, *prompt_warnings(script, clips)],
        memory=None if largest is None else _memory(architecture, facts, largest, precision, options),
        time=estimate_seconds(to_do, facts, report, precision) if to_do else None,
        content_hashes=hashes,
    )


def _look_for(
    clips: Sequence[PlannedClip], further: Sequence[PlannedClip], out: Path
) -> tuple[list[CheckedClip], dict[str, str]]:
    """The clips with what is there of each, and all hashes; one that continues another is told by that one's file."""
    found: dict[str, CheckedClip] = {}
    videos: dict[str, str] = {}
    for planned in in_chain_order(clips):
        clip = planned if planned.continues is None else joined(planned, videos, out)
        if clip is None:
            found[planned.name] = CheckedClip(planned)
        elif is_finished(clip, out):
            found[planned.name] = CheckedClip(clip, finished=True)
        elif kept := kept_sidecar(clip, out):
            found[planned.name] = CheckedClip(clip, finished=True, kept=kept)
        else:
            states = state_file(clip.name, out), state_file(clip.name, out / DRAFTS_FOLDER)
            found[planned.name] = CheckedClip(clip, stages=read_state(clip, *states).stages)
        if found[planned.name].finished:
            videos[planned.name] = video_hash(planned.name, out)
    hashes = {name: one.clip.content_hash for name, one in found.items()}
    hashes |= {clip.name: (joined(clip, videos, out) or clip).content_hash for clip in further}
    return [found[clip.name] for clip in clips], hashes


def _memory(
    architecture: Architecture,
    model: ScriptModel,
    clip: PlannedClip,
    precision: torch.dtype,
    options: LoadOptions,
) -> dict[str, float]:
    """What the largest clip needs on the device where the transformer runs."""
    size = precision.itemsize
    parts = {name: count * size for name, count in architecture.num_parameters.items()}
    if (decoder := architecture.model.decoder) is not None:
        parts["decoder"] = size * sum(weight.numel() for weight in decoder.parameters())
    if options.float8_weights:
        parts |= {name: parts[name] // size for name in architecture.transformers}
    weights = sum(parts.values()) if options.cpu_offload is None else max(parts.values())
    if options.cpu_offload == "sequential":
        weights = 0  # a layer at a time
    working = model.batch * working_bytes(architecture, model.schedule_of(clip.size), size)
    return {"weights_gib": weights / _GIB, "working_gib": working / _GIB}


def _row(clip: CheckedClip, width: int) -> str:
    """A clip as it will be."""
    planned = clip.clip
    about, asked = clip.about, planned.take.shot.seconds
    exact = asked is None or bool(clip.kept) or abs(asked - planned.seconds) < 5e-4
    length = f"{about['seconds']:.4g} s, {about['frames']} frames"
    length += "" if exact else f" (asked for {asked:g} s)"
    state = f"{clip.stages} of {len(planned.stages)} stages" if clip.status == "begun" else clip.status
    state = "kept as it was" if clip.kept else state
    return f"  {planned.name:<{width}}  {length}, {about['width']}x{about['height']}, seed {about['seed']}, {state}"


def _line(error: SourceError) -> int:
    """Line that an error names behind the file, for sorting."""
    found = re.search(r":(\d+): ", str(error))
    return int(found[1]) if found else 0


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"
