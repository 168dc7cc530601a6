"""One run that renders clips: each from where it is to its files, several at a time where that is asked for."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.batches import in_batches
from swd_video.studio.clip_files import (
    NOT_FINITE,
    decode,
    is_finished,
    kept_sidecar,
    write_clip,
    write_stage_preview,
)
from swd_video.studio.clips import PlannedClip
from swd_video.studio.continuation import in_chain_order, joined, video_hash
from swd_video.studio.draft_files import draft_folder, find_draft
from swd_video.studio.folder import REPORT_NAME, stage_preview, state_file, why_it_failed
from swd_video.studio.model import ModelFacts
from swd_video.studio.progress import Progress
from swd_video.studio.report import ClipResult, read_finish_seconds, read_times, times_of
from swd_video.studio.take_state import TakeState, read_state, run_stages, write_state

_REPORT_SECONDS = 10.0
"""Between two times that `render.json` is written; its length grows with the shots, so for many it is rarer."""


@dataclass
class RenderRun:
    """What a run has and does.

    Attributes:
        clips: All clips of the script, in its order.
        chosen: Names of those to render.
        pipe: The loaded model.
        model: Facts about the same model.
        out: Folder of the clips.
        progress: Is told of everything.
        previews: Whether each stage but the last is shown in a file.
        stop: Asked before the next clips are begun.
        report: Writes what became of the clips so far.
        results: What became of each, in the order of `clips`.
    """

    clips: Sequence[PlannedClip]
    chosen: Collection[str]
    pipe: ScaleWisePipeline
    model: ModelFacts
    out: Path
    progress: Progress
    previews: bool
    stop: Callable[[], bool]
    report: Callable[[Sequence[ClipResult]], object]
    results: list[ClipResult] = field(default_factory=list)
    _known_times: dict[str, list[float | None]] = field(default_factory=dict)
    _known_finish: dict[str, float] = field(default_factory=dict)
    _videos: dict[str, str] = field(default_factory=dict)
    _told: int = 0

    def make(self) -> list[ClipResult]:
        """Render what is not finished.

        Raises:
            OSError: The folder cannot be written to; what is finished is kept.
            KeyboardInterrupt: `stop` said so.
        """
        self._known_times = read_times(self.out / REPORT_NAME)
        self._known_finish = read_finish_seconds(self.out / REPORT_NAME)
        self.results = [self._recalled(ClipResult(clip)) for clip in self.clips]
        by_name = {result.clip.name: result for result in self.results}
        due = 0.0
        try:
            # One that continues another is not known before that one is finished.
            for _, some in groupby(in_chain_order(self.clips), lambda clip: clip.continues):
                missing = self._missing([by_name[clip.name] for clip in some])
                for part in in_batches(missing, _kind, self.model.batch):
                    if self.stop():
                        raise KeyboardInterrupt
                    self._render(part)
                    if (now := time.perf_counter()) >= due:
                        self.report(self.results)
                        due = now + max(_REPORT_SECONDS, 20 * (time.perf_counter() - now))
        except BaseException:
            with suppress(OSError):  # what stopped the run says more
                self.report(self.results)
            raise
        return self.results

    def _recalled(self, result: ClipResult) -> ClipResult:
        result.stage_seconds = times_of(result.clip, self._known_times)
        result.finish_seconds = self._known_finish.get(result.clip.content_hash)
        return result

    def _missing(self, results: Sequence[ClipResult]) -> Iterator[ClipResult]:
        """Those that have to be made; the others are told of on the way."""
        for result in results:
            if result.clip.continues is not None:
                result.clip = joined(result.clip, self._videos, self.out) or result.clip
                self._recalled(result)
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
            result.error += " Its latents are kept: the same command goes on with them."
        else:
            result.stage_seconds = []

    def _tell(self, result: ClipResult) -> None:
        self._told += 1
        line = f"[{self._told}/{len(self.chosen)}] {result.clip.name}: {result.line()}"
        self.progress.clip(result.clip.take, result.status, line, result.error)

    def _remember(self, result: ClipResult) -> None:
        if result.status in ("rendered", "skipped"):
            name = result.clip.name
            self._videos[name] = video_hash(name, self.out)
            if name in self.chosen:
                for file in (state_file(name, self.out), self.out / stage_preview(name)):
                    file.unlink(missing_ok=True)


def _kind(result: ClipResult) -> tuple[object, bool]:
    clip = result.clip
    return clip.size, clip.take.shot.picture is not None
