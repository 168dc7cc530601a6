"""Rendering a script: clips, sidecars, previews, a contact sheet and `render.json`, resumable at any moment.

What a stage gave is written before the next one begins, and removed once the clip is finished, so that whatever fails
or is killed costs the stage in hand and no other. Nothing but `render.json` holds times, so an interrupted and resumed
run ends with the same files.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from swd_video.environment import collecting_no_garbage
from swd_video.files import alone_in, write_json
from swd_video.models.devices import Device, Precision, choose_device, choose_precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.batches import check_batch, computed_together, drafted_together
from swd_video.studio.clips import PlannedClip, length_notes, plan_clips, prompt_warnings
from swd_video.studio.contact_sheet import draw_contact_sheets
from swd_video.studio.continuation import said_to_be_finished
from swd_video.studio.film import check_film, make_film
from swd_video.studio.folder import (
    FILM_NAME,
    REPORT_NAME,
    SHEET_NAME,
)
from swd_video.studio.model import ModelFacts, load_model_for_rendering
from swd_video.studio.picks import with_picks
from swd_video.studio.player import write_player
from swd_video.studio.progress import Progress, Watch, as_lines
from swd_video.studio.render_run import RenderRun
from swd_video.studio.report import ClipResult, RenderReport
from swd_video.studio.script import Script, load_script
from swd_video.studio.selection import select_takes
from swd_video.studio.unused import see_to_unused


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
        model: student to use instead of the script's: a shipped name or a folder.
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" takes bfloat16 on cuda and float32 elsewhere.
        reader: of the file, as for `load_script`.
        options: how the model is fitted into memory and run.
        only: shots (`tiger`) or takes (`tiger:3`) to render; default all. The others stay as they are.
        skip: shots or takes not to render.
        batch: takes to compute together; their bytes depend on it. Default as the drafts in the folder were made,
            else 1.
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
    check_batch(batch or 1)
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
        batch=batch,
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
    batch: int | None = None,
    previews: bool = False,
    tidy: bool = False,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> RenderReport:
    """Render what is not finished yet, and describe everything in `out`.

    Args:
        script: What to render.
        pipe: The loaded model.
        model: Facts about the same model.
        out: Folder for all files; made if missing. Files of shots no longer in the script are left alone.
        only: Shots or takes to render; see `render`.
        skip: Shots or takes not to render.
        batch: Takes to compute together; see `render`.
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
    model = computed_together(model, batch or drafted_together(out))
    clips = plan_clips(script, model)
    warnings = [*script.warnings, *prompt_warnings(script, clips)]
    chosen = select_takes([clip.take for clip in clips], only, skip)
    progress = Progress(as_lines(say), watch)
    for line in warnings:
        progress.warning(line)
    if model.batch > 1:
        progress.note(
            f"{model.batch} takes at a time: their pixels are rounded a little differently than alone"
        )
    for line in length_notes(clips):
        progress.note(line)

    def report(results: Sequence[ClipResult]) -> RenderReport:
        current = RenderReport(results, time.perf_counter() - started, warnings)
        write_json(out / REPORT_NAME, current.describe(script, model, out))
        return current

    with alone_in(out):
        if script.film is not None:
            check_film(script, {clip.name: clip.shown_size.frames for clip in clips}, model.fps)
        _plan_progress(clips, chosen, out, progress)
        results = RenderRun(clips, chosen, pipe, model, out, progress, previews, stop, report).make()
        rows = [result.sheet_row(out) for result in results]
        draw_contact_sheets(out / SHEET_NAME, script.title, model.name, rows)
        done = report(results)
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
