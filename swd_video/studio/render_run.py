"""One run that renders clips: each from where it is to its files, several at a time where that is asked for."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from swd_video.files import write_json
from swd_video.plain_text import sentence
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.batches import in_batches, kind_of
from swd_video.studio.clip_files import (
    NOT_FINITE,
    decode,
    is_finished,
    kept_sidecar,
    write_clip,
    write_stage_preview,
)
from swd_video.studio.clips import PlannedClip, length_notes, plan_clips, prompt_warnings
from swd_video.studio.continuation import in_chain_order, joined, said_to_be_finished, video_hash
from swd_video.studio.draft_files import draft_folder, find_draft
from swd_video.studio.film import check_film
from swd_video.studio.folder import REPORT_NAME, stage_preview, state_file, why_it_failed
from swd_video.studio.model import ModelFacts
from swd_video.studio.progress import Progress
from swd_video.studio.report import ClipResult, RenderReport, read_entries
from swd_video.studio.script import Script
from swd_video.studio.selection import select_takes
from swd_video.studio.take_state import TakeState, read_state, run_stages, write_state

_REPORT_SECONDS = 10.0
"""Between two times that `render.json` is written; its length grows with the shots, so for many it is rarer."""


@dataclass
class RenderRun:
    """What a run has and does.

    Attributes:
        previews: Whether each stage but the last is shown in a file.
        stop: Asked before the next clips are begun.
        started: When it began, as `time.perf_counter` counts.
        chosen: Names of the clips to render.
        results: What became of each clip of the script, in its order.
    """

    script: Script
    pipe: ScaleWisePipeline
    model: ModelFacts
    out: Path
    progress: Progress
    previews: bool
    stop: Callable[[], bool]
    started: float = field(default_factory=time.perf_counter)
    chosen: Collection[str] = ()
    results: list[ClipResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _earlier: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _videos: dict[str, str] = field(default_factory=dict)

    def plan(self, only: Sequence[str], skip: Sequence[str]) -> None:
        """Find out which clips there are, and which to render: `only` some, or all, less `skip`; writes nothing.

        Raises:
            SourceError: A shot asks for what the model cannot make.
            ValueError: `only` or `skip` names no take, or the film cannot be made of such clips.
        """
        clips = plan_clips(self.script, self.model)
        self.chosen = select_takes([clip.take for clip in clips], only, skip)
        self.results = [ClipResult(clip) for clip in clips]
        self.warnings = [*self.script.warnings, *prompt_warnings(self.script, clips)]
        for line in self.warnings:
            self.progress.warning(line)
        if self.model.batch > 1:
            self.progress.note(
                f"{self.model.batch} takes at a time: their pixels are rounded a little differently than alone"
            )
        for line in length_notes(clips):
            self.progress.note(line)
        if self.script.film is not None:
            check_film(self.script, {clip.name: clip.shown_size.frames for clip in clips}, self.model.fps)

    def make(self) -> None:
        """Render what is not finished.

        Raises:
            OSError: The folder cannot be written to; what is finished is kept.
            KeyboardInterrupt: `stop` said so.
        """
        clips = [result.clip for result in self.results]
        self._tell_plan(clips)
        self._earlier = read_entries(self.out / REPORT_NAME)
        for result in self.results:
            result.recall(self._earlier)
        by_name = {result.clip.name: result for result in self.results}
        due = 0.0
        try:
            # One that continues another is not known before that one is finished.
            for _, some in groupby(in_chain_order(clips), lambda clip: clip.continues):
                missing = self._missing([by_name[clip.name] for clip in some])
                for part in in_batches(missing, lambda result: kind_of(result.clip), self.model.batch):
                    if self.stop():
                        raise KeyboardInterrupt
                    self._render(part)
                    if (now := time.perf_counter()) >= due:
                        self.report()
                        due = now + max(_REPORT_SECONDS, 20 * (time.perf_counter() - now))
        except BaseException:
            with suppress(OSError):  # what stopped the run says more
                self.report()
            raise

    def report(self) -> RenderReport:
        """Write what became of the clips so far."""
        report = RenderReport(self.results, time.perf_counter() - self.started, self.warnings)
        write_json(self.out / REPORT_NAME, report.describe(self.script, self.model, self.out))
        return report

    def _tell_plan(self, clips: Sequence[PlannedClip]) -> None:
        """Tell how many clips there are, and how much work each is that its sidecar does not call finished."""
        steps, finished = {}, said_to_be_finished(clips, self.out)
        for clip in clips:
            if clip.name in self.chosen and clip.name not in finished:
                sizes = [*(size for _, size in clip.stages), clip.shown_size]
                steps[clip.name] = [size.frames * size.height * size.width for size in sizes]
        count = len(self.chosen)
        self.progress.plan(count, steps, f"{count} clip{'' if count == 1 else 's'}, {len(steps)} to render")

    def _missing(self, results: Sequence[ClipResult]) -> Iterator[ClipResult]:
        """Those that have to be made; the others are told of on the way."""
        for result in results:
            if result.clip.continues is not None:
                result.clip = joined(result.clip, self._videos, self.out) or result.clip
                result.recall(self._earlier)
            clip = result.clip
            is_chosen = clip.name in self.chosen
            if is_finished(clip, self.out):
                result.status = "skipped"
            elif kept := kept_sidecar(clip, self.out):
                result.status, result.kept = "skipped", kept
            elif is_chosen and clip.continues is not None and clip.after is None:
                result.status = "failed"
                result.error = f"it continues {clip.continues}, which is not finished. Render that one, too."
            elif is_chosen:
                yield result
                continue
            if is_chosen:
                self._tell(result)
            self._remember(result)

    def _render(self, part: Sequence[ClipResult]) -> None:
        self.progress.begin()
        began = time.perf_counter()
        states = [self._begun(result) for result in part]
        waiting = [at for at, result in enumerate(part) if states[at].stages < len(result.clip.stages)]
        for some in in_batches(waiting, lambda at: states[at].stages, self.model.batch):
            try:
                clips, begun = [part[at].clip for at in some], [states[at] for at in some]
                done = run_stages(clips, begun, self.pipe, self._keep, rows=self.model.batch)
            except Exception as error:  # whatever goes wrong with some, the others are still wanted
                for at in some:
                    self._fail(part[at], error)
            else:
                for at, state in zip(some, done, strict=True):
                    states[at] = state
        for result, state in zip(part, states, strict=True):
            if result.status == "pending":
                try:
                    result.stage_seconds = state.stage_seconds
                    begun_to_finish = time.perf_counter()
                    self._finish(result.clip, state)
                    result.finish_seconds = round(time.perf_counter() - begun_to_finish, 6)
                    result.status = "rendered"
                except Exception as error:
                    self._fail(result, error)
            result.seconds = time.perf_counter() - began
            self._tell(result)
            self._remember(result)

    def _begun(self, result: ClipResult) -> TakeState:
        clip = result.clip
        draft = find_draft(clip, self.out)
        if draft.differs:
            self.progress.note(f"{clip.name}: its draft is of another {draft.differs}, and is of no use")
        folders = self.out, draft_folder(self.out)
        return read_state(clip, *(state_file(clip.name, folder) for folder in folders))

    def _keep(self, clip: PlannedClip, state: TakeState) -> None:
        write_state(clip, state, state_file(clip.name, self.out))
        shown = None
        if self.previews and state.after is not None and state.stages < len(clip.stages):
            shown = write_stage_preview(clip, state.after.latents, self.pipe, self.out)
        self.progress.stage(clip.take, state.stages - 1, len(clip.stages), shown)

    def _finish(self, clip: PlannedClip, state: TakeState) -> None:
        if not state.is_finite:
            raise FloatingPointError(NOT_FINITE)
        assert state.after is not None
        write_clip(clip, decode(state.after.latents, self.pipe), self.model, self.out)

    def _fail(self, result: ClipResult, error: Exception) -> None:
        result.error = why_it_failed(error)
        result.status = "failed"
        if state_file(result.clip.name, self.out).is_file():
            result.error = (
                f"{sentence(result.error)} Its latents are kept: the same command goes on with them."
            )
        else:
            result.stage_seconds = []

    def _tell(self, result: ClipResult) -> None:
        line = f"{result.clip.name}: {result.line()}"
        self.progress.clip(result.clip.take, result.status, line, result.error)

    def _remember(self, result: ClipResult) -> None:
        if result.status in ("rendered", "skipped"):
            name = result.clip.name
            self._videos[name] = video_hash(name, self.out)
            if name in self.chosen:
                for file in (state_file(name, self.out), self.out / stage_preview(name)):
                    file.unlink(missing_ok=True)
