"""What became of the drafts of a script, and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from swd_video.studio.clips import PlannedClip
from swd_video.studio.draft_files import KeptDraft
from swd_video.studio.folder import DRAFTS_FOLDER
from swd_video.studio.model import ScriptModel
from swd_video.studio.script import Script, Shot
from swd_video.studio.take_state import TakeState

DraftStatus = Literal["pending", "drafted", "kept", "older", "finished", "failed"]
TERA = 1e12


@dataclass
class DraftResult:
    """What became of the draft of one take.

    Attributes:
        kept: What an earlier run left of it.
        status: "drafted" in this run, "kept" from an earlier one, "older" for one that is kept and shows what the
            script said before, "finished" where the whole clip is there and no draft of it, "failed", or still
            "pending".
        state: The take after its last stage, until it is shown.
        stage: How many stages it shows; 0 where there is nothing to see.
        seconds: Wall time that it took, in whichever run; None where that is not known.
        error: Why it failed, in one line.
    """

    clip: PlannedClip
    kept: KeptDraft
    status: DraftStatus = "pending"
    state: TakeState = field(default_factory=TakeState)
    stage: int = 0
    seconds: float | None = None
    error: str = ""

    @property
    def is_there(self) -> bool:
        """Whether there is something to see."""
        return self.status in ("drafted", "kept", "older", "finished")

    @property
    def file(self) -> str:
        """Where it is seen, from the folder of the clips on."""
        name = f"{self.clip.name}.webp"
        return name if self.status == "finished" else f"{DRAFTS_FOLDER}/{name}"

    def finish(self, sidecar: Mapping[str, Any]) -> None:
        """Show the whole clip in its place, which has this sidecar."""
        self.kept = KeptDraft(sidecar)
        self.status, self.stage = "finished", len(self.clip.stages)

    def take_over(self, status: Literal["kept", "older"]) -> None:
        """Leave it as an earlier run made it."""
        about = self.kept.about
        self.status, self.stage = status, about["stage"]
        seconds = about.get("draft_seconds")
        self.seconds = float(seconds) if isinstance(seconds, int | float) else None

    def as_dict(self, picked: bool) -> dict[str, Any]:
        """The draft's entry in `drafts.json`; `file` lies beside that."""
        take = self.clip.take
        shown = self.kept.about if self.status in ("older", "finished") else {}
        return {
            **take.as_dict(),
            **{key: shown[key] for key in ("prompt", "seed") if key in shown},
            "file": self.file if self.is_there else None,
            "stage": self.stage or None,
            "stages": len(self.clip.stages),
            "status": self.status,
            "picked": picked,
            "seconds": self.seconds,
            **({"error": self.error} if self.error else {}),
        }


@dataclass(frozen=True)
class DraftReport:
    """The outcome of a run.

    Attributes:
        results: All drafts of the script, also those that this run left alone, in its order.
        stages: After how many stages this run stopped.
        picks: Takes that are to be finished, by shot.
        takes: How many takes of each shot were asked for so far.
        seconds: Wall time of the run.
        cost: See `cost_of`.
        warnings: What was warned of.
        batch: How many takes were computed together.
        unfinished: The request for new takes, `{"shots": [...], "seeds": N}`, until a run has come to its end.
    """

    results: Sequence[DraftResult]
    stages: int
    picks: Mapping[str, Sequence[int]]
    takes: Mapping[str, int]
    seconds: float
    cost: Mapping[str, Any]
    warnings: Sequence[str] = ()
    batch: int = 1
    unfinished: Mapping[str, Any] = field(default_factory=dict)

    def count(self, status: DraftStatus) -> int:
        """How many drafts have this status."""
        return sum(result.status == status for result in self.results)

    def by_shot(self) -> list[tuple[Shot, list[DraftResult]]]:
        """The drafts that are there or have failed, of every shot that has one."""
        grouped = groupby(self.results, lambda result: result.clip.take.shot)
        shots = [(shot, [one for one in group if one.is_there or one.error]) for shot, group in grouped]
        return [(shot, results) for shot, results in shots if results]

    def is_picked(self, result: DraftResult) -> bool:
        """Whether its take is to be finished."""
        take = result.clip.take
        return take.take in self.picks.get(take.shot.id, ())

    def summary(self) -> str:
        """How many drafts became what, and what they cost, as a line."""
        counts = [f"{self.count('drafted')} drafted", f"{self.count('kept')} kept"]
        counts += [
            f"{number} {status}"
            for status in ("older", "finished", "failed")
            if (number := self.count(status))
        ]
        line = f"{', '.join(counts)} in {self.seconds:.1f} s"
        share = self.cost.get("share")
        return (
            line if share is None else f"{line}; they take {share:.1%} of the operations of the whole clips"
        )

    def as_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Plain values: `{"drafts": [...], "cost": {...}, "seconds": ..., "warnings": [...]}`.

        Args:
            folder: Turns every `file` into an absolute path; without it, names are relative to `drafts.json`.
        """
        drafts = [result.as_dict(self.is_picked(result)) for result in self.results]
        if folder is not None:
            drafts = [one | {"file": one["file"] and str(folder.resolve() / one["file"])} for one in drafts]
        return {
            "stages": self.stages,
            "batch": self.batch,
            "drafts": drafts,
            "cost": dict(self.cost),
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }

    def describe(self, script: Script, model: ScriptModel) -> dict[str, Any]:
        """The content of `drafts.json`."""
        return {
            "title": script.title,
            "model": model.name,
            "model_fingerprint": model.fingerprint,
            "seed": script.seed,
            "takes": dict(self.takes),
            "unfinished": dict(self.unfinished),
            **self.as_dict(),
        }


def cost_of(results: Sequence[DraftResult], model: ScriptModel, known: Mapping[str, Any]) -> dict[str, Any]:
    """What the drafts that are there took, and would take as whole clips.

    `known` is what an earlier run counted, as `counted` below; counting takes seconds.

    Returns:
        `drafts`, how many; `seconds`, measured; `tflops` and `clips_tflops`, counted, of the drafts and of the whole
        clips, both with what shows them; `share`, the first of the second; `counted`: both in operations, by size and
        stages. None for what cannot be counted.
    """
    there = [result for result in results if result.status in ("drafted", "kept")]
    counted: dict[str, Any] = {}
    sums = [0, 0]
    for result in there:
        key = f"{model.fingerprint} {model.decoder} {result.clip.size} {result.stage}"
        if key not in counted:
            found = known.get(key)
            is_known = isinstance(found, list) and len(found) == 2 and all(type(n) is int for n in found)
            counted[key] = (
                found if is_known else model.count_draft(model.schedule_of(result.clip.size), result.stage)
            )
        if counted[key] is not None:
            sums = [sum(pair) for pair in zip(sums, counted[key], strict=True)]
    is_counted = bool(there) and None not in counted.values()
    return {
        "drafts": len(there),
        "seconds": round(sum(result.seconds or 0.0 for result in there), 3),
        "tflops": sums[0] / TERA if is_counted else None,
        "clips_tflops": sums[1] / TERA if is_counted else None,
        "share": sums[0] / sums[1] if is_counted else None,
        "counted": {key: None if pair is None else list(pair) for key, pair in counted.items()},
    }
