"""One run that makes drafts: plans them, computes what is missing, and describes all there are."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swd_video.files import write_json
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.batches import in_batches, kind_of
from swd_video.studio.clip_files import NOT_FINITE
from swd_video.studio.clips import PlannedClip, plan_clips, prompt_warnings
from swd_video.studio.continuation import joined, said_to_be_finished, video_hash
from swd_video.studio.draft_files import draft_folder, find_draft, show_drafts, write_draft
from swd_video.studio.draft_page import write_pages
from swd_video.studio.draft_report import DraftReport, DraftResult, cost_of
from swd_video.studio.draft_sheet import write_sheets
from swd_video.studio.folder import DRAFTS_REPORT_NAME, state_file, why_it_failed
from swd_video.studio.model import ModelFacts
from swd_video.studio.picks import with_picks
from swd_video.studio.progress import Progress
from swd_video.studio.script import Script
from swd_video.studio.take_state import TakeState, read_state, run_stages, write_state

_REPORT_SECONDS = 10.0
"""Between two times that `drafts.json` is written; its length grows with the shots, so for many it is rarer."""

_SHOWN_TOGETHER = 2


@dataclass
class DraftRun:
    """What a run has and does.

    Attributes:
        takes: How many of each shot there are.
        stop: Asked before the next takes are begun.
        started: When it began, as `time.perf_counter` counts.
        results: All drafts of the script.
        work: Those that are looked after.
        cost: See `cost_of`; until that is known, what an earlier run counted.
    """

    script: Script
    pipe: ScaleWisePipeline
    model: ModelFacts
    out: Path
    progress: Progress
    stages: int
    takes: Mapping[str, int]
    stop: Callable[[], bool]
    started: float = field(default_factory=time.perf_counter)
    results: list[DraftResult] = field(default_factory=list)
    work: list[DraftResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cost: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, names: Collection[str]) -> None:
        """Find out what there is to do, of the takes of these names.

        Raises:
            SourceError: A shot asks for what the model cannot make.
        """
        picked = with_picks(self.script, self.out)
        # A shot without drafts is looked at all the same, so that its mistakes show.
        counts = [(shot, max(1, self.takes[shot.id])) for shot in picked.shots]
        takes = (picked.take(shot, number) for shot, count in counts for number in range(1, count + 1))
        clips = plan_clips(picked, self.model, takes=takes)
        self.warnings = [*self.script.warnings, *prompt_warnings(picked, clips)]
        videos = self._finished_videos(picked)
        for planned in clips:
            if planned.take.take > self.takes[planned.take.shot.id]:
                continue
            clip = joined(planned, videos, self.out)
            if clip is None:
                self.progress.note(
                    f"{planned.name}: drafted once {planned.continues} is finished, which it continues"
                )
                continue
            result = DraftResult(clip, find_draft(clip, self.out))
            self.results.append(result)
            if result.kept.is_shown and (result.kept.stages >= self.stages or clip.name not in names):
                result.take_over("kept")
            elif result.kept.is_whole and (clip.name not in names or clip.take.shot.keeps(clip.take.take)):
                result.take_over("older")
            if clip.name in names:
                self.work.append(result)

    def _finished_videos(self, script: Script) -> dict[str, str]:
        """Hashes of the clips that others may continue."""
        if all(shot.continues is None for shot in script.shots):
            return {}
        finished = said_to_be_finished(plan_clips(script, self.model), self.out)
        return {name: video_hash(name, self.out) for name in finished}

    def make(self, earlier: Mapping[str, Any]) -> DraftReport:
        """Compute what is missing, and write the pages; `earlier` is what `drafts.json` held before.

        Raises:
            OSError: The folder cannot be written to.
            KeyboardInterrupt: `stop` said so.
        """
        missing = [result for result in self.work if result.status == "pending"]
        self._tell_plan(missing)
        cost = earlier.get("cost")
        counted = cost.get("counted") if isinstance(cost, Mapping) else None
        counted = dict(counted) if isinstance(counted, Mapping) else {}
        self.cost = {"counted": counted}
        # First, as it says how many takes there are: a run after a kill draws no further seeds.
        self._report()
        try:
            self._make(missing)
            self.cost = cost_of(self.results, self.model, counted)
            report = self._report()
            write_sheets(self.out, self.script, self.model, report)
            write_pages(self.out, self.script, self.model, report)
        except BaseException:
            with suppress(OSError):  # what stopped the run says more
                self._report()
            raise
        return report

    def _make(self, missing: Sequence[DraftResult]) -> None:
        due = time.perf_counter() + _REPORT_SECONDS
        for unit in in_batches(
            missing, lambda result: kind_of(result.clip), max(self.model.batch, _SHOWN_TOGETHER)
        ):
            if self.stop():
                raise KeyboardInterrupt
            self.progress.begin()
            began = time.perf_counter()
            for part in self._computed(unit):
                self._show(part, began)
                began = time.perf_counter()
            if (now := time.perf_counter()) >= due:
                self._report()
                due = now + max(_REPORT_SECONDS, 20 * (time.perf_counter() - now))

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
                self.progress.clip(result.clip.take, result.status, f"{result.clip.name}: drafted before")

    def _computed(self, unit: Sequence[DraftResult]) -> Iterator[list[DraftResult]]:
        """Takes whose stages are done, those together that are shown on one grid."""
        for result in unit:
            clip = result.clip
            file, rendering = (state_file(clip.name, folder) for folder in (draft_folder(self.out), self.out))
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
            write_state(clip, state, state_file(clip.name, draft_folder(self.out)))
            self.progress.stage(clip.take, state.stages - 1, len(clip.stages))

        try:
            clips, states = [result.clip for result in part], [result.state for result in part]
            states = run_stages(clips, states, self.pipe, keep, until=self.stages, rows=self.model.batch)
        except Exception as error:  # whatever goes wrong with some, the others are still wanted
            self._fail(part, error)
            return
        for result, state in zip(part, states, strict=True):
            result.state = state
            if not state.is_finite:
                self._fail([result], FloatingPointError(NOT_FINITE))

    def _show(self, part: Sequence[DraftResult], began: float) -> None:
        try:
            shown = show_drafts([one.clip for one in part], [one.state for one in part], self.pipe)
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

    def _report(self) -> DraftReport:
        picked = with_picks(self.script, self.out)
        report = DraftReport(
            self.results,
            self.stages,
            {shot.id: shot.pick for shot in picked.shots},
            self.takes,
            time.perf_counter() - self.started,
            self.cost,
            self.warnings,
            self.model.batch,
        )
        write_json(self.out / DRAFTS_REPORT_NAME, report.describe(self.script, self.model), durable=True)
        return report
