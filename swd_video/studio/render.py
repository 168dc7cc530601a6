"""Rendering a script: clips, sidecars, previews, a contact sheet and `render.json`, resumable at any moment.

What a stage gave is written before the next one begins, and removed once the clip is finished, so that whatever fails
or is killed costs the stage in hand and no other. Nothing but `render.json` holds times, so an interrupted and resumed
run ends with the same files.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from swd_video.environment import collecting_no_garbage
from swd_video.files import alone_in, write_json
from swd_video.models.devices import Device, Precision, choose_device, choose_precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.clip_files import NOT_FINITE, decode, is_finished, write_clip, write_stage_preview
from swd_video.studio.clips import PlannedClip, length_notes, plan_clips, prompt_warnings
from swd_video.studio.contact_sheet import draw_contact_sheets
from swd_video.studio.continuation import in_chain_order, joined, said_to_be_finished, video_hash
from swd_video.studio.film import check_film, make_film
from swd_video.studio.folder import (
    DRAFTS_FOLDER,
    FILM_NAME,
    REPORT_NAME,
    SHEET_NAME,
    stage_preview,
    state_file,
    why_it_failed,
)
from swd_video.studio.model import ModelFacts, load_model_for_rendering
from swd_video.studio.picks import with_picks
from swd_video.studio.player import write_player
from swd_video.studio.progress import Progress, Watch, as_lines
from swd_video.studio.report import ClipResult, RenderReport, read_times, times_of
from swd_video.studio.script import Script, load_script
from swd_video.studio.selection import select_takes
from swd_video.studio.take_state import TakeState, read_state, run_stages, write_state
from swd_video.studio.unused import see_to_unused

_REPORT_SECONDS = 10.0
"""Between two times that `render.json` is written; its length grows with the shots, so for many it is rarer."""


def render(
    script: Script | str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    reader: str | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
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
        model: student to use instead of the script's: a shipped name or a folder.
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" takes bfloat16 on cuda and float32 elsewhere.
        reader: of the file, as for `load_script`.
        options: how the model is fitted into memory and run.
        only: shots (`tiger`) or takes (`tiger:3`) to render; default all. The others stay as they are.
        skip: shots or takes not to render.
        previews: show each stage but the last, in a file that goes when the clip is there; the event names it.
        tidy: move the clips of shots that the script names no longer into the folder's `unused/`.
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
    script = with_picks(script if isinstance(script, Script) else load_script(script, reader), out)
    select_takes(list(script.takes()), only, skip)  # refused before the model is loaded
    with alone_in(out):
        pass  # loading takes long: that nothing can be written there should show before
    place = choose_device(device)
    precision, name = choose_precision(dtype, place), model or script.model
    Progress(as_lines(say), watch).note(
        f"loading {name} on {place} in {str(precision).removeprefix('torch.')}"
    )
    with collecting_no_garbage():
        pipe, facts = load_model_for_rendering(name, device=place, dtype=precision, options=options)
    pipe.set_progress_bar_config(disable=True)  # `watch` is told of the stages
    return render_script(
        script,
        pipe,
        facts,
        out,
        only=only,
        skip=skip,
        previews=previews,
        tidy=tidy,
        say=say,
        watch=watch,
        stop=stop,
    )


def render_script(
    script: Script,
    pipe: ScaleWisePipeline,
    model: ModelFacts,
    out: Path,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    previews: bool = False,
    tidy: bool = False,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> RenderReport:
    """Render what is not finished yet, one clip at a time, and describe everything in `out`.

    Args:
        script: What to render.
        pipe: The loaded model.
        model: Facts about the same model.
        out: Folder for all files; made if missing. Files of shots no longer in the script are left alone.
        only: Shots or takes to render; see `render`.
        skip: Shots or takes not to render.
        previews: Show each stage but the last in a file.
        tidy: Move the clips of shots that the script names no longer into `unused/`.
        say: Takes lines about progress.
        watch: Takes events.
        stop: Asked before every clip.

    Raises:
        SourceError: A shot asks for what the model cannot make; nothing has been written then.
        ValueError: `only` or `skip` names no take.
        FolderInUseError: Another run is writing there.
        OSError: The folder cannot be written to; what is finished is kept.
        KeyboardInterrupt: `stop` said so.
    """
    started = time.perf_counter()
    script = with_picks(script, out)
    clips = plan_clips(script, model)
    warnings = [*script.warnings, *prompt_warnings(script, clips)]
    chosen = select_takes([clip.take for clip in clips], only, skip)
    progress = Progress(as_lines(say), watch)
    for line in warnings:
        progress.warning(line)
    for line in length_notes(clips):
        progress.note(line)

    def report(results: Sequence[ClipResult]) -> RenderReport:
        current = RenderReport(results, time.perf_counter() - started, warnings)
        write_json(out / REPORT_NAME, current.describe(script, model, out))
        return current

    with alone_in(out):
        if script.film is not None:
            check_film(script, out, {clip.name: clip.shown_size.frames for clip in clips}, model.fps)
        _plan_progress(clips, chosen, out, progress)
        done = report(
            _render_clips(script, clips, chosen, pipe, model, out, progress, previews, stop, report)
        )
        done = replace(done, film=_make_film(script, out, progress))
        write_player(out)
        see_to_unused([shot.id for shot in script.shots], out, tidy_up=tidy, say=progress.note)
    progress.done("failed" if done.count("failed") else "done", done.summary())
    return done


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


def _plan_progress(
    clips: Sequence[PlannedClip], chosen: Collection[str], out: Path, progress: Progress
) -> None:
    """Tell how many clips there are, and how much work each is that its sidecar does not call finished."""
    steps, finished = {}, said_to_be_finished(clips, out)
    for clip in clips:
        if clip.name in chosen and clip.name not in finished:
            sizes = [*(size for _, size in clip.stages), clip.shown_size]
            steps[clip.name] = [size.frames * size.height * size.width for size in sizes]
    count = len(chosen)
    text = f"{count} clip{'' if count == 1 else 's'}, {len(steps)} to render"
    progress.plan(count, steps, text)


def _render_clips(
    script: Script,
    clips: Sequence[PlannedClip],
    chosen: Collection[str],
    pipe: ScaleWisePipeline,
    model: ModelFacts,
    out: Path,
    progress: Progress,
    previews: bool,
    stop: Callable[[], bool],
    report: Callable[[Sequence[ClipResult]], object],
) -> list[ClipResult]:
    known_times = read_times(out / REPORT_NAME)
    results = [ClipResult(clip, stage_seconds=times_of(clip, known_times)) for clip in clips]
    by_name = {result.clip.name: result for result in results}
    videos: dict[str, str] = {}
    due, begun = 0.0, 0
    try:
        for planned in in_chain_order(clips):
            result = by_name[planned.name]
            if planned.continues is not None:
                result.clip = joined(planned, videos, out) or planned
                result.stage_seconds = times_of(result.clip, known_times)
            if planned.name in chosen:
                if stop():
                    raise KeyboardInterrupt
                begun += 1
                progress.begin()
                _render_if_needed(result, pipe, model, out, progress, previews)
                line = f"[{begun}/{len(chosen)}] {planned.name}: {result.line()}"
                progress.clip(planned.take, result.status, line, result.error)
            elif is_finished(result.clip, out):
                result.status = "skipped"
            if result.status in ("rendered", "skipped"):
                videos[planned.name] = video_hash(planned.name, out)
            if (now := time.perf_counter()) >= due:
                report(results)
                due = now + max(_REPORT_SECONDS, 20 * (time.perf_counter() - now))
        rows = [result.sheet_row(out) for result in results]
        draw_contact_sheets(out / SHEET_NAME, script.title, model.name, rows)
    except BaseException:
        with suppress(OSError):  # what stopped the run says more
            report(results)
        raise
    return results


def _render_if_needed(
    result: ClipResult,
    pipe: ScaleWisePipeline,
    model: ModelFacts,
    out: Path,
    progress: Progress,
    previews: bool,
) -> None:
    began = time.perf_counter()
    clip = result.clip
    waiting = state_file(clip.name, out)

    def keep(clip: PlannedClip, state: TakeState) -> None:
        write_state(clip, state, waiting)
        shown = None
        if previews and state.after is not None and state.stages < len(clip.stages):
            shown = write_stage_preview(clip, state.after.latents, pipe, out)
        progress.stage(clip.take, state.stages - 1, len(clip.stages), shown)

    try:
        if is_finished(clip, out):
            result.status = "skipped"
        elif clip.continues is not None and clip.after is None:
            raise ValueError(f"it continues {clip.continues}, which is not finished. Render that one, too.")
        else:
            state = read_state(clip, waiting, state_file(clip.name, out / DRAFTS_FOLDER))
            if state.stages < len(clip.stages):
                (state,) = run_stages([clip], [state], pipe, keep)
            result.stage_seconds = state.stage_seconds
            _finish(clip, state, pipe, model, out)
            result.status = "rendered"
        waiting.unlink(missing_ok=True)
        (out / stage_preview(clip.name)).unlink(missing_ok=True)
    except Exception as error:  # whatever goes wrong with one shot, the others are still wanted
        _fail(result, error, waiting)
    result.seconds = time.perf_counter() - began


def _finish(
    clip: PlannedClip, state: TakeState, pipe: ScaleWisePipeline, model: ModelFacts, out: Path
) -> None:
    if not state.is_finite:
        raise FloatingPointError(NOT_FINITE)
    assert state.after is not None
    write_clip(clip, decode(state.after.latents, pipe), model, out)


def _fail(result: ClipResult, error: Exception, waiting: Path) -> None:
    result.error = why_it_failed(error)
    result.status = "failed"
    if waiting.is_file():
        result.error += " Its latents are kept: the same command goes on with them."
    else:
        result.stage_seconds = []
