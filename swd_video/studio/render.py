"""Rendering a script: clips, sidecars, previews, a contact sheet and `render.json`, resumable at any moment.

What a stage gave is written before the next one begins, and removed once the clip is finished, so that whatever fails
or is killed costs the stage in hand and no other. Nothing but `render.json` holds times, so an interrupted and resumed
run ends with the same files.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from swd_video.files import alone_in
from swd_video.models.devices import Device, Precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.studio.batches import check_batch, computed_together, drafted_together
from swd_video.studio.contact_sheet import draw_contact_sheets
from swd_video.studio.film import make_film
from swd_video.studio.folder import FILM_NAME, SHEET_NAME
from swd_video.studio.model import LoadedModel, open_model
from swd_video.studio.picks import with_picks
from swd_video.studio.player import write_player
from swd_video.studio.progress import Progress, Watch, as_lines
from swd_video.studio.render_run import RenderRun
from swd_video.studio.report import RenderReport
from swd_video.studio.script import Script, load_script
from swd_video.studio.selection import select_takes
from swd_video.studio.unused import see_to_unused


def render(
    script: Script | str | Path,
    out: str | Path,
    *,
    model: str | LoadedModel | None = None,
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
    if batch is not None:
        check_batch(batch)
    select_takes(list(with_picks(script, out).takes()), only, skip)  # refused before the model is loaded
    progress = Progress(as_lines(say), watch)
    pipe, facts = open_model(
        model or script.model, out, progress, device=device, dtype=dtype, options=options
    )
    facts = computed_together(facts, drafted_together(out) if batch is None else batch)
    run = RenderRun(with_picks(script, out), pipe, facts, out, progress, previews, stop)
    run.plan(only, skip)
    with alone_in(out):
        run.make()
        rows = [result.sheet_row(out) for result in run.results]
        draw_contact_sheets(out / SHEET_NAME, script.title, facts.name, rows)
        report = run.report()
        report = replace(report, film=_make_film(run.script, out, progress))
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
