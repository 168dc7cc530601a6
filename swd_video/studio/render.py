"""Rendering a script: clips, sidecars, previews, a contact sheet and `render.json`, resumable at any moment.

What a stage gave is written before the next one begins, and removed once the clip is finished, so that whatever fails
or is killed costs the stage in hand and no other. Nothing but `render.json` holds times, so an interrupted and resumed
run ends with the same files.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from swd_video.files import alone_in, path_from, write_json
from swd_video.models.devices import Device, Precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.plain_text import sentence
from swd_video.studio.clip_files import (
    NOT_FINITE,
    film_frames,
    is_finished,
    is_kept_and_changed,
    kept_sidecar,
    write_clip,
    write_stage_preview,
)
from swd_video.studio.clips import PlannedClip, length_notes, plan_clips, prompt_warnings
from swd_video.studio.contact_sheet import draw_contact_sheets
from swd_video.studio.continuation import finished_videos, in_chain_order, joined, video_hash
from swd_video.studio.draft_files import find_draft
from swd_video.studio.film import check_film, make_film
from swd_video.studio.folder import (
    DRAFTS_FOLDER,
    FILM_NAME,
    REPORT_NAME,
    SHEET_NAME,
    read_object,
    stage_preview,
    state_file,
    why_it_failed,
)
from swd_video.studio.model import ScriptModel, open_model
from swd_video.studio.picks import select_takes, with_picks
from swd_video.studio.player import write_player
from swd_video.studio.progress import Progress, Watch, as_lines, reporting
from swd_video.studio.report import ClipResult, RenderReport, read_entries
from swd_video.studio.script import Script, load_script
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
from swd_video.studio.unused import see_to_unused, set_aside

_FURTHER = "A draft is rendered once it is picked; `takes` in the script asks for more."


def render(
    script: Script | str | Path,
    out: str | Path,
    *,
    model: str | ScriptModel | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    reader: str | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    batch: int | None = None,
    previews: bool = False,
    tidy: bool = False,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> RenderReport:
    """Render a script, as `swd-video render` does: what is finished already is kept, so call it again to go on.

    Args:
        script: what to render, or its file.
        out: folder for all files; made if missing.
        model: student to use instead of the script's: a shipped name, a folder, or one that is loaded.
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" takes bfloat16 on cuda and float32 elsewhere.
        reader: of the file, as for `load_script`.
        options: how the model is fitted into memory and run.
        only: shots (`tiger`) or takes (`tiger:3`) to render; default all. The others stay as they are.
        skip: shots or takes not to render.
        batch: takes to compute together; their bytes depend on it. Default as the drafts in the folder were made,
            else 1.
        previews: show each stage but the last, in a file that goes when the clip is there; the event names it.
        tidy: move the files of shots that the script names no longer into the folder's `unused/`.
        say: takes lines about progress, for example `print`.
        watch: takes the same as events, and every stage as well.
        stop: asked before every clip; if it says yes, the run ends like one that is interrupted.

    Raises:
        ValueError: the script or the model is not usable; nothing has been written then.
        FolderInUseError: another run is writing there.
        OSError: the folder cannot be written to; what is finished is kept.
        KeyboardInterrupt: `stop` said so.
    """
    out = Path(out)
    script = script if isinstance(script, Script) else load_script(script, reader)
    check_batch(batch)
    check_sources(script, out)
    select_takes(
        list(with_picks(script, out).takes()), only, skip, _FURTHER
    )  # refused before the model is loaded
    progress = Progress(as_lines(say), watch)
    facts = open_model(model or script.model, out, progress, device=device, dtype=dtype, options=options)
    facts = replace(facts, batch=drafted_together(out) if batch is None else batch)
    run = _RenderRun(script, with_picks(script, out), facts, out, progress, previews, stop)
    run.plan(only, skip)
    with alone_in(out):
        run.make()
        rows = [result.sheet_row(out) for result in run.results]
        draw_contact_sheets(out / SHEET_NAME, script.title, facts.name, rows)
        report = run.report()
        report = replace(report, film=_make_film(run.picked, out, progress))
        write_player(out)
        see_to_unused([shot.id for shot in script.shots], out, tidy_up=tidy, say=progress.note)
    progress.done("failed" if report.count("failed") else "done", report.summary())
    return report


def _make_film(script: Script, out: Path, progress: Progress) -> str | None:
    """Make the film that the script asks for; its name, None without one."""
    if script.film is None:
        return None
    try:
        film = make_film(script, out, say=progress.warning)
    except ValueError as error:  # a clip failed or was left out
        progress.warning(f"no film was made: {error}")
        return None
    made = "made" if film["made"] else "as it was"
    progress.note(f"{FILM_NAME}: {film['frames']} frames, {film['seconds']:.4g} s, {made}")
    return FILM_NAME


@dataclass
class _RenderRun:
    """What a run has and does.

    Attributes:
        script: As it is written.
        picked: The same with what was picked by hand.
        previews: Whether each stage but the last is shown in a file.
        stop: Asked before the next clips are begun.
        started: When it began, as `time.perf_counter` counts.
        chosen: Names of the clips to render.
        results: What became of each clip of the script, in its order.
    """

    script: Script
    picked: Script
    model: ScriptModel
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
        """Find out which clips there are, and which to render: `only` some, or all, less `skip`; writes nothing."""
        clips = plan_clips(self.picked, self.model)
        self.chosen = select_takes([clip.take for clip in clips], only, skip, _FURTHER)
        self.results = [ClipResult(clip) for clip in clips]
        self.warnings = [*self.script.warnings, *prompt_warnings(self.picked, clips)]
        for line in self.warnings:
            self.progress.warning(line)
        if self.model.batch > 1:
            self.progress.note(
                f"{self.model.batch} takes at a time: their pixels are rounded a little differently than alone"
            )
        kept = {clip.name: sidecar for clip in clips if (sidecar := kept_sidecar(clip, self.out))}
        for line in length_notes([clip for clip in clips if clip.name not in kept]):
            self.progress.note(line)
        if self.script.film is not None:
            frames = {clip.name: film_frames(clip, kept.get(clip.name, {})) for clip in clips}
            check_film(self.picked, frames, self.model.pipe.fps)

    def make(self) -> None:
        """Render what is not finished."""
        clips = [result.clip for result in self.results]
        self._set_aside(clips)
        self._tell_plan(clips)
        self._earlier = read_entries(self.out / REPORT_NAME)
        for result in self.results:
            result.recall(self._earlier)
        by_name = {result.clip.name: result for result in self.results}
        with reporting(self.report) as report_if_due:
            # One that continues another is not known before that one is finished.
            for _, some in groupby(in_chain_order(clips), lambda clip: clip.continues):
                missing = self._missing([by_name[clip.name] for clip in some])
                for part in in_batches(missing, lambda result: kind_of(result.clip), self.model.batch):
                    if self.stop():
                        raise KeyboardInterrupt
                    self._render(part)
                    report_if_due()

    def report(self) -> RenderReport:
        """Write what became of the clips so far."""
        report = RenderReport(self.results, time.perf_counter() - self.started, self.warnings)
        write_json(self.out / REPORT_NAME, report.describe(self.script, self.model, self.out))
        return report

    def _set_aside(self, clips: Sequence[PlannedClip]) -> None:
        """Move clips of another script away that these would replace: nobody reworded them, so both are wanted."""
        before = read_object(self.out / REPORT_NAME).get("script")
        if not isinstance(before, str) or before == path_from(self.out, self.script.path):
            return
        # All, also those that this run leaves out: the next one no longer knows of the other script.
        takes = [clip.take for clip in clips if not clip.take.shot.keeps(clip.take.take)]
        if line := set_aside(takes, self.out):
            self.warnings.append(
                f"{before} was rendered here, too: {line} Give each script a folder of its own."
            )
            self.progress.warning(self.warnings[-1])

    def _tell_plan(self, clips: Sequence[PlannedClip]) -> None:
        """Tell how many clips there are, and how much work each is that its sidecar does not call finished."""
        steps, finished = {}, finished_videos(clips, self.out)
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
            elif is_chosen and is_kept_and_changed(clip, self.out):
                result.status = "failed"
                result.error = (
                    f"the script keeps it, and {clip.name}.mp4 or its preview is not as it was rendered. Move them "
                    "elsewhere, or drop `keep`, to render it anew."
                )
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
                done = run_stages(clips, begun, self.model.pipe, self._keep, rows=self.model.batch)
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
                    if not state.is_finite:
                        raise FloatingPointError(NOT_FINITE)
                    assert state.after is not None
                    write_clip(result.clip, state.after.latents, self.model, self.out)
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
        folders = self.out, self.out / DRAFTS_FOLDER
        return read_state(clip, *(state_file(clip.name, folder) for folder in folders))

    def _keep(self, clip: PlannedClip, state: TakeState) -> None:
        write_state(clip, state, state_file(clip.name, self.out))
        shown = None
        if self.previews and state.after is not None and state.stages < len(clip.stages):
            shown = write_stage_preview(clip, state.after.latents, self.model.pipe, self.out)
        self.progress.stage(clip.take, state.stages - 1, len(clip.stages), shown)

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
