"""What became of the clips of a script, as objects, as `render.json` and as lines to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swd_video.files import path_from
from swd_video.models.devices import device_name
from swd_video.studio.clip_files import as_kept, stages_of
from swd_video.studio.clips import PlannedClip
from swd_video.studio.contact_sheet import SheetRow
from swd_video.studio.film_record import film_entry, shot_entry
from swd_video.studio.folder import object_at, read_object
from swd_video.studio.model import ScriptModel
from swd_video.studio.script import Script

Status = Literal["pending", "rendered", "skipped", "failed"]
_OUTCOMES: tuple[Status, ...] = ("rendered", "skipped", "failed")


@dataclass
class ClipResult:
    """What became of one clip.

    Attributes:
        status: "rendered" in this run, "skipped" as it was finished before, "failed", or still "pending".
        stage_seconds: Compute time of every stage, from an earlier run if skipped; None where unknown.
        error: Why it failed, in one line.
        seconds: Wall time that this run spent on it.
        finish_seconds: Wall time of decoding and writing it, maybe in an earlier run; None where unknown.
        kept: Sidecar of what the script keeps in its place.
    """

    clip: PlannedClip
    status: Status = "pending"
    stage_seconds: list[float | None] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    finish_seconds: float | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    def recall(self, earlier: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the times of an earlier run, as `read_entries` gave it, where they are of this clip."""
        entry = earlier.get(self.clip.content_hash, {})
        stages, finish = entry.get("stages"), entry.get("finish_seconds")
        listed = stages if isinstance(stages, list) else []
        times = [stage["seconds"] for stage in listed if isinstance(stage, dict) and "seconds" in stage]
        fit = len(times) == len(listed) == len(self.clip.stages)
        fit = fit and all(isinstance(time, float | None) for time in times)
        self.stage_seconds = times if fit else []
        self.finish_seconds = float(finish) if isinstance(finish, int | float) else None

    def as_dict(self) -> dict[str, Any]:
        """The clip's entry in `render.json`; sizes are in pixels, `file` lies beside `render.json`."""
        clip = self.clip
        times = self.stage_seconds or [None] * len(clip.stages)
        entry: dict[str, Any] = {
            **clip.take.as_dict(),
            "file": f"{clip.name}.mp4" if self.status in ("rendered", "skipped") else None,
            **clip.shown(),
            "status": self.status,
            "stages": [
                stage | {"seconds": seconds} for stage, seconds in zip(stages_of(clip), times, strict=True)
            ],
        }
        entry |= self._as_kept() if self.kept else self._as_planned()
        entry |= shot_entry(clip.take.shot)
        return entry | ({"error": self.error} if self.error else {})

    def _as_planned(self) -> dict[str, Any]:
        clip = self.clip
        read_as = None if clip.prompt == clip.take.shot.prompt else clip.prompt
        more = {"continues": clip.continues, "read_as": read_as, "unknown_words": clip.unknown_words}
        return {key: value for key, value in more.items() if value}

    def _as_kept(self) -> dict[str, Any]:
        """What is another than the script says."""
        before, stages = object_at(self.kept, "joins").get("clip"), self.kept.get("stages")
        listed = [{**stage, "seconds": None} for stage in stages] if isinstance(stages, list) else []
        return {**as_kept(self.kept), "stages": listed, **({"continues": before} if before else {})}

    def line(self) -> str:
        """What became of it, to be read after its name."""
        clip = self.clip
        if self.status == "failed":
            return f"failed: {self.error}"
        length = f"{clip.size.frames} frames, {clip.seconds:.4g} s"
        if clip.continues is not None:
            length = f"continues {clip.continues}, {length}"
        if self.kept:
            return "kept as it was"
        done = "finished before" if self.status == "skipped" else f"rendered in {self.seconds:.1f} s"
        return f"{length}, {done}"

    def sheet_row(self, out: Path) -> SheetRow:
        """Its place on the contact sheet; `out` is the folder of the clips."""
        name, about = self.clip.name, self.as_dict()
        unknown = about.get("unknown_words")
        return SheetRow(
            heading=name,
            details=f"{about['seconds']:.3g} s   seed {about['seed']}"
            + (f"   continues {about['continues']}" if "continues" in about else "")
            + ("   kept as it was" if self.kept else ""),
            prompt=about["prompt"],
            video=out / f"{name}.mp4" if self.status in ("rendered", "skipped") else None,
            problem=self.error
            or ("not rendered yet" if self.status == "pending" else "")
            or (f"unknown words: {', '.join(unknown)}" if unknown else ""),
        )


@dataclass(frozen=True)
class RenderReport:
    """The outcome of a run: a result for every clip, its wall time, what was warned of, and the film's name."""

    results: Sequence[ClipResult]
    seconds: float
    warnings: Sequence[str] = ()
    film: str | None = None

    def count(self, status: Status) -> int:
        """How many clips have this status."""
        return sum(result.status == status for result in self.results)

    def summary(self) -> str:
        """How many clips became what, as a line."""
        counts: list[str] = [f"{self.count(status)} {status}" for status in _OUTCOMES]
        if left_out := self.count("pending"):
            counts.append(f"{left_out} left out")
        return f"{', '.join(counts)} in {self.seconds:.1f} s"

    def as_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Plain values: `{"shots": [...], "seconds": ..., "warnings": [...]}`.

        Args:
            folder: Turns every `file` into an absolute path; without it, names are relative to `render.json`.
        """
        shots = [result.as_dict() for result in self.results]
        if folder is not None:
            shots = [shot | {"file": shot["file"] and str(folder.resolve() / shot["file"])} for shot in shots]
        described = {"shots": shots, "seconds": round(self.seconds, 3), "warnings": list(self.warnings)}
        if self.film is not None:
            described["film"] = self.film if folder is None else str(folder.resolve() / self.film)
        return described

    def describe(self, script: Script, model: ScriptModel, out: Path) -> dict[str, Any]:
        """The content of `render.json` in a folder; the script is as it is written, without what is picked there."""
        described = self.as_dict()
        for entry, result in zip(described["shots"], self.results, strict=True):
            entry["finish_seconds"] = result.finish_seconds
            entry["content_hash"] = result.kept.get("content_hash", result.clip.content_hash)
        picked = [shot.id for shot in script.shots if shot.pick]
        return {
            "title": script.title,
            "script": path_from(out, script.path),
            "model": model.name,
            "model_fingerprint": model.fingerprint,
            **({"decoder": model.decoder} if model.decoder else {}),
            **({"batch": model.batch} if model.batch > 1 else {}),
            "device": model.device,
            "dtype": model.dtype,
            "machine": device_name(model.device),
            "seed": script.seed,
            **({"picked_in_script": picked} if picked else {}),
            **({"film_settings": film_entry(script.film, out)} if script.film is not None else {}),
            **described,
        }


def read_entries(path: Path) -> dict[str, Mapping[str, Any]]:
    """Entries of the clips of an earlier run, by content hash; what cannot be understood is not there."""
    shots = read_object(path).get("shots")
    entries = [entry for entry in shots if isinstance(entry, dict)] if isinstance(shots, list) else []
    return {str(entry.get("content_hash")): entry for entry in entries}
