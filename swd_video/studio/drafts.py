"""Drafts: the first stages of many takes, to pick from before the rest is paid for.

A draft keeps its clean latents and its noise, so that finishing it is what it would have been without a draft. What is
there already and still of the script is kept, so an interrupted run goes on where it was.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swd_video.files import alone_in, write_json
from swd_video.models.devices import Device, Precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.studio.clip_files import NOT_FINITE, clip_is_there
from swd_video.studio.clips import PlannedClip, plan_clips, prompt_warnings
from swd_video.studio.continuation import finished_videos, joined
from swd_video.studio.draft_files import find_draft, show_drafts, write_draft
from swd_video.studio.draft_page import write_pages
from swd_video.studio.draft_report import DraftReport, DraftResult, cost_of
from swd_video.studio.draft_sheet import write_sheets
from swd_video.studio.folder import (
    DRAFTS_FOLDER,
    DRAFTS_REPORT_NAME,
    object_at,
    read_object,
    sidecar_file,
    state_file,
    why_it_failed,
)
from swd_video.studio.model import ScriptModel, open_model
from swd_video.studio.picks import named_shot, select_takes, with_picks
from swd_video.studio.progress import Progress, Watch, as_lines, reporting
from swd_video.studio.script import MAX_TAKES, Script, load_script
from swd_video.studio.sources import check_sources
from swd_video.studio.take_state import (
    TakeState,
    check_batch,
    drafted_together,
    in_batches,
    kind_of,
    read_state,
    run_stages,
    write_state,
)

DEFAULT_SEEDS = 8
"""Takes of a shot that nobody said the number of."""

_SHOWN_TOGETHER = 2


def draft(
    script: Script | str | Path,
    out: str | Path,
    *,
    seeds: int = DEFAULT_SEEDS,
    stages: int | None = None,
    again: Sequence[str] = (),
    batch: int | None = None,
    model: str | ScriptModel | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    reader: str | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> DraftReport:
    """Draft a script, as `swd-video draft` does; call it again to go on.

    `seeds` are takes of every shot, `stages` those of a draft, by default as measured for the student. `again` names
    shots to draw as many new seeds of, while the others are left alone. All else is as for `render`; drafts lie in
    `drafts` below `out`, and `stop` is asked before the next takes are begun.

    Raises:
        ValueError: the script, the model or a number is not usable; nothing has been written then.
        FolderInUseError: another run is writing there.
        OSError: the folder cannot be written to; what is finished is kept.
        KeyboardInterrupt: `stop` said so.
    """
    script, out = script if isinstance(script, Script) else load_script(script, reader), Path(out)
    check_batch(batch)
    check_sources(script, out)
    _plan_takes(script, out, seeds, again, only, skip)  # refused before the model is loaded
    progress = Progress(as_lines(say), watch)
    facts = open_model(model or script.model, out, progress, device=device, dtype=dtype, options=options)
    facts = replace(facts, batch=drafted_together(out) if batch is None else batch)
    stages = _draft_stages(facts, stages, progress)
    with alone_in(out):
        takes, work, request = _plan_takes(script, out, seeds, again, only, skip)
        run = _DraftRun(script, facts, out, progress, stages, takes, request, stop)
        run.plan(work)
        with alone_in(out / DRAFTS_FOLDER):
            report = run.make()
    progress.done("failed" if report.count("failed") else "done", report.summary())
    return report


def _draft_stages(model: ScriptModel, asked: int | None, progress: Progress) -> int:
    """How many stages a draft takes: as asked, as measured for the student, or else the first half of them."""
    count = len(model.schedule)
    if asked is not None and not 1 <= asked <= count:
        raise ValueError(
            f"--stages {asked}: {model.name} has {count} stages. Take from 1 to {count} of them."
        )
    if asked is None and model.draft_stages is None:
        half = model.schedule.first_half
        progress.warning(
            f"{model.name}: after how many stages a draft tells the clip was not measured; taking {half} of {count}. "
            f"`swd-video bench draft {model.name}` measures it."
        )
        return half
    return asked or model.draft_stages or count


def _plan_takes(
    script: Script,
    out: Path,
    seeds: int,
    again: Sequence[str],
    only: Sequence[str],
    skip: Sequence[str],
) -> tuple[dict[str, int], set[str], Mapping[str, Any]]:
    """How many takes every shot has, the names of those that this run looks after, and the request for new ones.

    `seeds` are takes of a shot, or new ones of a shot in `again`; these are drawn when all that were asked for before
    have a draft and no run was interrupted at the very same request, so the same command goes on after a kill.
    """
    if not 1 <= seeds <= MAX_TAKES:
        raise ValueError(f"--seeds {seeds}: expected a number of takes, from 1 to {MAX_TAKES}.")
    report = read_object(out / DRAFTS_REPORT_NAME)
    counts, request = object_at(report, "takes"), object_at(report, "unfinished")
    numbers = {shot.id: counts.get(shot.id) for shot in script.shots}
    before = {name: n if type(n) is int and 1 <= n <= MAX_TAKES else 0 for name, n in numbers.items()}
    chosen = {named_shot(script, text, "--again") for text in again}
    asked_before, drafted = request, {path.stem for path in (out / DRAFTS_FOLDER).glob("*.json")}
    if again:
        request = {"shots": [shot.id for shot in script.shots if shot.id in chosen], "seeds": seeds}
    takes: dict[str, int] = {}
    fresh: set[str] = set()
    for shot in script.shots:
        asked = before[shot.id]
        if shot.id in chosen:
            # Of a time when the shot was there, before a script without it.
            numbers_there = range(asked + 1, MAX_TAKES + 1)
            asked = max([asked, *(n for n in numbers_there if script.take(shot, n).name in drafted)])
        takes[shot.id] = asked if again else max(asked, seeds)
        if shot.id in chosen:
            names = [script.take(shot, number).name for number in range(1, asked + seeds + 1)]
            missing = [
                name
                for name in names[:asked]
                if not any(sidecar_file(name, place).is_file() for place in (out, out / DRAFTS_FOLDER))
            ]
            takes[shot.id] = asked if missing or request == asked_before else asked + seeds
            fresh.update(missing or names[asked : takes[shot.id]])
        if takes[shot.id] > MAX_TAKES:
            raise ValueError(
                f"--seeds {seeds}: {shot.id} would have {takes[shot.id]} takes, at most {MAX_TAKES}."
            )
    # One at least, so that a shot without drafts can be named.
    counted = [(shot, max(1, takes[shot.id])) for shot in script.shots]
    everything = [script.take(shot, take) for shot, count in counted for take in range(1, count + 1)]
    work = select_takes(everything, only, skip, "--seeds drafts more.")
    if fresh and not work & fresh:
        raise ValueError("--again, --only and --skip: no new take is left. Drop one of them.")
    work = work & fresh if again else work
    at_work = {take.shot.id for take in everything if take.name in work}
    return {name: n if name in at_work else before[name] for name, n in takes.items()}, work, request


@dataclass
class _DraftRun:
    """What a run has and does.

    Attributes:
        takes: How many of each shot there are.
        unfinished: The request for new ones, until all is done.
        stop: Asked before the next takes are begun.
        started: When it began, as `time.perf_counter` counts.
        results: All drafts of the script.
        work: Those that are looked after.
        cost: See `cost_of`; until that is known, what an earlier run counted.
        picked: The script as `_picked` gave it last.
    """

    script: Script
    model: ScriptModel
    out: Path
    progress: Progress
    stages: int
    takes: Mapping[str, int]
    unfinished: Mapping[str, Any]
    stop: Callable[[], bool]
    started: float = field(default_factory=time.perf_counter)
    results: list[DraftResult] = field(default_factory=list)
    work: list[DraftResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cost: Mapping[str, Any] = field(default_factory=dict)
    picked: Script | None = None

    def plan(self, names: Collection[str]) -> None:
        """Find out what there is to do, of the takes of these names."""
        picked = self._picked()
        # A shot without drafts is looked at all the same, so that its mistakes show.
        counts = [(shot, max(1, self.takes[shot.id])) for shot in picked.shots]
        takes = (picked.take(shot, number) for shot, count in counts for number in range(1, count + 1))
        clips = plan_clips(picked, self.model, takes=takes)
        self.warnings = [*self.script.warnings, *prompt_warnings(picked, clips)]
        continued = any(shot.continues is not None for shot in picked.shots)
        videos = finished_videos(plan_clips(picked, self.model), self.out) if continued else {}
        for planned in clips:
            if planned.take.take > self.takes[planned.take.shot.id]:
                continue
            clip = joined(planned, videos, self.out)
            if clip is None:
                if planned.name in names:
                    self.progress.note(
                        f"{planned.name}: drafted once {planned.continues} is finished, which it continues"
                    )
                continue
            result = DraftResult(clip, find_draft(clip, self.out))
            self.results.append(result)
            if result.kept.is_shown and (result.kept.stages >= self.stages or clip.name not in names):
                result.take_over("kept")
            elif clip_is_there(clip, self.out):
                result.finish(read_object(sidecar_file(clip.name, self.out)))
            elif result.kept.is_whole and (clip.name not in names or clip.take.shot.keeps(clip.take.take)):
                result.take_over("older")
            if clip.name in names:
                self.work.append(result)

    def make(self) -> DraftReport:
        """Compute what is missing, and write the pages."""
        missing = [result for result in self.work if result.status == "pending"]
        self._tell_plan(missing)
        counted = object_at(object_at(read_object(self.out / DRAFTS_REPORT_NAME), "cost"), "counted")
        self.cost = {"counted": counted}
        # First, as it says how many takes there are: a run after a kill draws no further seeds.
        self._report()
        with reporting(self._report) as report_if_due:
            together = max(self.model.batch, _SHOWN_TOGETHER)
            for unit in in_batches(missing, lambda result: kind_of(result.clip), together):
                if self.stop():
                    raise KeyboardInterrupt
                self.progress.begin()
                began = time.perf_counter()
                for part in self._computed(unit):
                    self._show(part, began)
                    began = time.perf_counter()
                report_if_due()
            self.cost = cost_of(self.results, self.model, counted)
            report = self._report()
            write_sheets(self.out, self.script, self.model, report)
            write_pages(self.out, self.script, self.model, report)
            self.unfinished = {}
            report = self._report()
        return report

    def _tell_plan(self, missing: Sequence[DraftResult]) -> None:
        for line in self.warnings:
            self.progress.warning(line)
        steps = {}
        for result in missing:
            sizes = [size for _, size in result.clip.stages[: self.stages]]
            pixels = [size.frames * size.height * size.width for size in (*sizes, sizes[-1])]
            steps[result.clip.name] = pixels
        count = len(self.work)
        text = (
            f"{count} draft{'' if count == 1 else 's'} of {self.stages} in {len(self.model.schedule)} stages"
        )
        text += f", {len(steps)} to make"
        self.progress.plan(count, steps, text)
        for result in self.work:
            if result.status == "pending" and result.kept.differs:
                self.progress.note(f"{result.clip.name}: drafted anew, for another {result.kept.differs}")
            elif result.status == "pending" and result.kept.stages >= self.stages:
                self.progress.note(f"{result.clip.name}: shown anew from its latents")
            if result.status != "pending":
                text = {
                    "older": f"drafted before, for another {result.kept.differs}: kept",
                    "finished": "finished before",
                }.get(result.status, "drafted before")
                self.progress.clip(result.clip.take, result.status, f"{result.clip.name}: {text}")

    def _computed(self, unit: Sequence[DraftResult]) -> Iterator[list[DraftResult]]:
        """Takes whose stages are done, those together that are shown on one grid."""
        for result in unit:
            clip = result.clip
            file, rendering = (
                state_file(clip.name, folder) for folder in (self.out / DRAFTS_FOLDER, self.out)
            )
            result.state, further = read_state(clip, file), read_state(clip, rendering)
            if further.stages > result.state.stages:
                result.state = further
                write_state(clip, further, file)
        fresh = [result for result in unit if result.state.stages < self.stages]
        for part in in_batches(fresh, lambda result: result.state.stages, self.model.batch):
            self._run(part)
        there = [result for result in unit if result.status == "pending"]
        yield from in_batches(there, lambda result: result.state.stages, len(unit))

    def _run(self, part: Sequence[DraftResult]) -> None:
        def keep(clip: PlannedClip, state: TakeState) -> None:
            write_state(clip, state, state_file(clip.name, self.out / DRAFTS_FOLDER))
            self.progress.stage(clip.take, state.stages - 1, len(clip.stages))

        try:
            clips, states = [result.clip for result in part], [result.state for result in part]
            states = run_stages(
                clips, states, self.model.pipe, keep, until=self.stages, rows=self.model.batch
            )
        except Exception as error:  # whatever goes wrong with some, the others are still wanted
            self._fail(part, error)
            return
        for result, state in zip(part, states, strict=True):
            result.state = state
            if not state.is_finite:
                self._fail([result], FloatingPointError(NOT_FINITE))

    def _show(self, part: Sequence[DraftResult], began: float) -> None:
        try:
            shown = show_drafts([one.clip for one in part], [one.state for one in part], self.model.pipe)
            for result, frames in zip(part, shown, strict=True):
                result.seconds = (time.perf_counter() - began) / len(part)
                write_draft(result.clip, result.state, frames, result.seconds, self.model, self.out)
                result.status, result.stage = "drafted", result.state.stages
                result.state = TakeState()  # its latents are on the disk
                self._tell(result)
        except Exception as error:
            self._fail([result for result in part if result.status == "pending"], error)

    def _fail(self, part: Sequence[DraftResult], error: Exception) -> None:
        for result in part:
            result.error = why_it_failed(error)
            result.status = "failed"
            self._tell(result)

    def _tell(self, result: DraftResult) -> None:
        clip = result.clip
        text = f"drafted in {result.seconds or 0:.2f} s" if result.is_there else f"failed: {result.error}"
        self.progress.clip(clip.take, result.status, f"{clip.name}: {text}", result.error)

    def _picked(self) -> Script:
        """The script with what is picked by now; with what was picked before, where that is just being edited."""
        try:
            self.picked = with_picks(self.script, self.out)
        except ValueError:
            if self.picked is None:
                raise
        return self.picked

    def _report(self) -> DraftReport:
        picked = self._picked()
        report = DraftReport(
            self.results,
            self.stages,
            {shot.id: shot.pick for shot in picked.shots},
            self.takes,
            time.perf_counter() - self.started,
            self.cost,
            self.warnings,
            self.model.batch,
            self.unfinished,
        )
        write_json(self.out / DRAFTS_REPORT_NAME, report.describe(self.script, self.model), durable=True)
        return report
