"""Drafts: the first stages of many takes, to pick from before the rest is paid for.

A draft keeps its clean latents and its noise, so that finishing it is what it would have been without a draft. What is
there already and still of the script is kept, so an interrupted run goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swd_video.files import alone_in
from swd_video.models.devices import Device, Precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.studio.batches import check_batch, computed_together
from swd_video.studio.draft_files import draft_folder
from swd_video.studio.draft_report import DraftReport
from swd_video.studio.draft_run import DraftRun
from swd_video.studio.folder import DRAFTS_REPORT_NAME, read_object, sidecar_file
from swd_video.studio.model import LoadedModel, ModelFacts, open_model
from swd_video.studio.progress import Progress, Watch, as_lines
from swd_video.studio.script import MAX_TAKES, Script, load_script
from swd_video.studio.selection import named_takes, select_takes

DEFAULT_SEEDS = 8
"""Takes of a shot that nobody said the number of."""


def draft(
    script: Script | str | Path,
    out: str | Path,
    *,
    seeds: int = DEFAULT_SEEDS,
    stages: int | None = None,
    again: Sequence[str] = (),
    batch: int = 1,
    model: str | LoadedModel | None = None,
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

    Args:
        script: what to draft, or its file.
        out: folder of the clips; drafts lie in `drafts` below it.
        seeds: takes of every shot.
        stages: of each; default what was measured for the student.
        again: shots to draw as many new seeds of; the others are left alone.
        batch: takes to compute together; their bytes depend on it.
        model: student to use instead of the script's: a shipped name, a folder, or one that is loaded.
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" takes bfloat16 on cuda and float32 elsewhere.
        reader: of the file, as for `load_script`.
        options: how the model is fitted into memory and run.
        only: shots to draft; default all.
        skip: shots not to draft.
        say: takes lines about progress, for example `print`.
        watch: takes the same as events, and every stage as well.
        stop: asked before the next takes are begun; if it says yes, the run ends like one that is interrupted.

    Raises:
        ValueError: the script, the model or a number is not usable; nothing has been written then.
        FolderInUseError: another run is writing there.
        OSError: the folder cannot be written to; what is finished is kept.
        KeyboardInterrupt: `stop` said so.
    """
    script, out = script if isinstance(script, Script) else load_script(script, reader), Path(out)
    check_batch(batch)

    def planned(earlier: Mapping[str, Any]) -> tuple[dict[str, int], set[str]]:
        return plan_takes(script, known_takes(script, earlier, out), seeds, again, only, skip)

    planned(read_object(out / DRAFTS_REPORT_NAME))  # refused before the model is loaded
    progress = Progress(as_lines(say), watch)
    pipe, facts = open_model(
        model or script.model, out, progress, device=device, dtype=dtype, options=options
    )
    facts, stages = computed_together(facts, batch), draft_stages(facts, stages, progress)
    with alone_in(out):
        earlier = read_object(out / DRAFTS_REPORT_NAME)
        takes, work = planned(earlier)
        run = DraftRun(script, pipe, facts, out, progress, stages, takes, stop)
        run.plan(work)
        with alone_in(draft_folder(out)):
            report = run.make(earlier)
    progress.done("failed" if report.count("failed") else "done", report.summary())
    return report


def draft_stages(model: ModelFacts, asked: int | None, progress: Progress) -> int:
    """How many stages a draft takes: as asked, as measured for the student, or else the first half of them.

    Raises:
        ValueError: It has not so many.
    """
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


def plan_takes(
    script: Script,
    known: Mapping[str, tuple[int, set[int]]],
    seeds: int,
    again: Sequence[str],
    only: Sequence[str],
    skip: Sequence[str],
) -> tuple[dict[str, int], set[str]]:
    """How many takes every shot has, and the names of those that this run looks after.

    New seeds are drawn when all that were asked for before have a draft; so the same command goes on after a kill.

    `known` are, by shot, how many takes were asked for before and the numbers of those that have a draft; `seeds` are
    takes of a shot, or new ones of a shot in `again`.

    Raises:
        ValueError: There is no such shot or take, or there would be too many.
    """
    if not 1 <= seeds <= MAX_TAKES:
        raise ValueError(f"--seeds {seeds}: expected a number of takes, from 1 to {MAX_TAKES}.")
    takes: dict[str, int] = {}
    fresh: set[str] = set()
    chosen = {shot.id for shot in script.shots}
    if again:
        one_each = [script.take(shot, 1) for shot in script.shots]
        names = {take.name: take.shot.id for take in one_each}
        chosen = {names[name] for text in again for name in named_takes(one_each, text, "--again")}
    for shot in script.shots:
        asked, there = known.get(shot.id, (0, set()))
        missing = {*range(1, asked + 1)} - there
        takes[shot.id] = asked if again else max(asked, seeds)
        if again and shot.id in chosen:
            takes[shot.id] = asked if missing else asked + seeds
            missing = missing or {*range(asked + 1, asked + seeds + 1)}
            fresh |= {script.take(shot, number).name for number in missing}
        if takes[shot.id] > MAX_TAKES:
            raise ValueError(
                f"--seeds {seeds}: {shot.id} would have {takes[shot.id]} takes, at most {MAX_TAKES}."
            )
    everything = [script.take(shot, take) for shot in script.shots for take in range(1, takes[shot.id] + 1)]
    work = select_takes(everything, only, skip)
    work = work & fresh if again else work
    at_work = {take.shot.id for take in everything if take.name in work}
    return {
        shot_id: n if shot_id in at_work else known.get(shot_id, (0,))[0] for shot_id, n in takes.items()
    }, work


def known_takes(script: Script, earlier: Mapping[str, Any], out: Path) -> dict[str, tuple[int, set[int]]]:
    """How many takes of each shot earlier runs were asked for, and the numbers of those that have a draft.

    `earlier` is what `drafts.json` holds.
    """
    counts = earlier.get("takes")
    known: dict[str, tuple[int, set[int]]] = {}
    for shot in script.shots:
        count = counts.get(shot.id) if isinstance(counts, Mapping) else None
        if type(count) is int and 1 <= count <= MAX_TAKES:
            names = {number: script.take(shot, number).name for number in range(1, count + 1)}
            folder = draft_folder(out)
            there = {number for number, name in names.items() if sidecar_file(name, folder).is_file()}
            known[shot.id] = count, there
    return known
