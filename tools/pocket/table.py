r"""Make the table of docs/pocket-results.md: teacher, students and real clips on held-out prompts, and their cost.

    python -m tools.pocket.table --judge runs/pocket/judge --out runs/pocket/table \
        --full-resolution runs/pocket/full-4 --two-step runs/pocket/full-2 --spatiotemporal pocket-wan-swd

An evaluation as `swd-video evaluate` makes it, on the prompts of the split "final", which nothing else sees. Clips are
kept in batches, scores and times beside them, so the command may be killed and run again. Nothing here judges with a
network that trained a student: adherence is read by the judge of tools/pocket/judge.py, fidelity and diversity over
ImageNet features, motion by optical flow. All rows start clip i from the same seed. Speed is measured at the end, one
batch at a time, the rows taking turns in this one process.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from swd_video.core.grid import PixelSize
from swd_video.core.interval import Estimate
from swd_video.evaluation.adherence import AttributeJudge
from swd_video.evaluation.clip_encoders import PACKAGED, ImageNetVideoFeatures
from swd_video.evaluation.columns import comparison_table, metrics_of, results_table
from swd_video.evaluation.difference import Difference
from swd_video.evaluation.evaluate import RESULT_NAME, CostTask, Evaluation, RowTask, run_evaluation
from swd_video.evaluation.overlap import JudgingNetwork, check_overlap
from swd_video.evaluation.report import check_markers, replace_between_markers
from swd_video.evaluation.results import Results
from swd_video.evaluation.rows import Row, student_row, teacher_row, through_vae, weights_digest
from swd_video.evaluation.scores import Judges
from swd_video.models.loading import load_model, resolve_model_path
from swd_video.student.student import load_student
from tools.pocket import corpus
from tools.pocket.judge import CLASSES
from tools.pocket.rows import MARGINS, composed_row, evaluation_specs

MARKER = "pocket table"
_STUDENT = "spatiotemporal"
_FULL = "full-resolution"
_TWO_STEPS = "two-step"
_ADHERENCE = tuple(f"adherence_{name}" for name in CLASSES)


@dataclass(frozen=True)
class TableOptions:
    """What to judge and how."""

    judge: Path
    """Folder of the judge (tools/pocket/judge.py)."""
    out: Path
    """Folder for clips, scores, times and evaluation.json."""
    teacher: str = "pocket-wan"
    full_resolution: str | None = None
    """Student with all its stages at full size."""
    two_step: tuple[str, ...] = ()
    """Students with two stages at full size."""
    spatiotemporal: str | None = None
    """Student whose stages grow in space and time."""
    others: tuple[str, ...] = ()
    """More students, each as TITLE=FOLDER."""
    docs: Path | None = Path("docs/pocket-results.md")
    """Document with the markers; "None" to leave it alone."""
    size: str | None = None
    """Clip size of the teacher, FRAMESxHEIGHTxWIDTH; default what the model folder says."""
    guidance: float = 3.0
    teacher_steps: tuple[int, ...] = (50, 8, 4)
    """Sampling steps of the teacher's rows; the first is what shares refer to."""
    count: int = 246
    """Clips in each row."""
    samples_per_prompt: int = 3
    reference_count: int = 246
    """Real clips, of other seeds, that the distances are measured to."""
    batch_size: int = 16
    dtype: Literal["fp32", "bf16"] = "fp32"
    rounds: int = 5
    """Timed runs of each row; 0 times nothing, as on a machine that is not quiet."""
    timed_batch: int = 16
    """Clips in one timed run, as many as `batch_size` makes at once; one alone would mostly time Python."""
    threads: int | None = None
    """CPU threads; default PyTorch's choice."""
    seed: int = 1
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print everything as one JSON object on stdout."""


def build_rows(options: TableOptions) -> tuple[list[Row], PixelSize]:
    """Load every model and describe every row; also the size of the clips.

    Raises:
        ValueError: If a model is missing, the clip size is not known, or a judging network trained a student.
    """
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    teacher = load_model(options.teacher, dtype=dtype)
    size = PixelSize.parse(options.size) if options.size else teacher.spec.training_size
    if size is None:
        raise ValueError(
            f"--size: {options.teacher} does not say what clips it makes; give FRAMESxHEIGHTxWIDTH."
        )
    teacher.spec.compression.latent_size(size)
    rows = [composed_row(size)]
    rows.append(through_vae(rows[0], "codec", "real clips through the VAE", teacher))
    for steps in options.teacher_steps:
        title = f"teacher, {steps} steps, guidance {options.guidance:g}"
        rows.append(
            teacher_row(
                f"teacher-{steps}", title, teacher, steps=steps, guidance_scale=options.guidance, size=size
            )
        )
    judging = [JudgingNetwork("--judge", str(options.judge)), JudgingNetwork("features", PACKAGED)]
    for key, title, folder in _students(options):
        if not check_overlap(resolve_model_path(folder), judging):
            print(f"{folder}: does not say which networks trained it", file=sys.stderr)
        student = load_student(folder, dtype=dtype)
        student.set_progress_bar_config(disable=True)
        stages = " → ".join(f"{stage.grid} from {stage.sigma:g}" for stage in student.scheduler.schedule)
        rows.append(student_row(key, f"{title} ({stages})", student, size))
    return rows, size


def _students(options: TableOptions) -> list[tuple[str, str, str]]:
    """Key, title and folder of each."""
    students = [(_FULL, "student, full resolution", options.full_resolution)]
    for number, path in enumerate(options.two_step, start=1):
        students.append((f"{_TWO_STEPS}-{number}", "student, full resolution, 2 steps", path))
    students.append((_STUDENT, "student, space and time", options.spatiotemporal))
    for other in options.others:
        title, equals, path = other.partition("=")
        if not equals:
            raise ValueError(f"--others: got {other!r}, expected TITLE=FOLDER.")
        students.append(("".join(c if c.isalnum() else "-" for c in title.lower()), title, path))
    return [(key, title, folder) for key, title, folder in students if folder is not None]


def check_targets(results: Results) -> list[dict[str, Any]]:
    """Hold the staged student against what the pocket world must reach; only what the rows allow.

    A target on two rows is met by the interval of their difference: "no worse" if all of it is better than the margin
    the wrong way, "ahead" if all of it is better than 0. So neither few nor many clips meet it by themselves.

    Returns:
        For each target its name, what was found, and whether it is met.
    """
    figures = {row.key: row.figures for row in results.rows}
    teacher = figures[results.reference]
    checks = [
        _at_least(f"teacher's {_word(name)}", _value(teacher[name]), 0.95)
        for name in _ADHERENCE
        if name in teacher
    ]
    if _STUDENT not in figures:
        return checks
    for name, least in (
        *((name, 0.95) for name in _ADHERENCE),
        ("diversity", 0.8),
        ("spread", 0.8),
        ("flow", 0.9),
    ):
        share = _value(figures[_STUDENT][name]) / max(_value(teacher[name]), 1e-9)
        checks.append(_at_least(f"student's {_word(name)}, share of the teacher's", share, least))
    checks += [_no_worse(results, results.reference, name) for name in (*_ADHERENCE, "kernel")]
    if _FULL in figures:
        checks += [_no_worse(results, _FULL, name) for name in (*_ADHERENCE, "kernel", "flow")]
    for key in (key for key in figures if key.startswith(_TWO_STEPS)):
        checks += [_ahead(results, key, name) for name in ("kernel", "flow", "spread")]
    for other, target in ((_FULL, 2.5), (results.reference, 40.0)):
        if "transformer_seconds" in figures.get(other, {}):
            seconds = [_value(figures[key]["transformer_seconds"]) for key in (other, _STUDENT)]
            checks.append(
                _at_least(f"transformer time, times as fast as {other}", seconds[0] / seconds[1], target)
            )
    return checks


def _no_worse(results: Results, other: str, name: str) -> dict[str, Any]:
    found = _difference(results, other, name)
    label = f"student's {_word(name)} no worse than {other}'s by {found.margin:.3g}"
    return {"name": label, "found": _said(found), "met": found.is_no_worse}


def _ahead(results: Results, other: str, name: str) -> dict[str, Any]:
    found = _difference(results, other, name)
    label = f"student's {_word(name)} {'better' if found.better != 'reference' else 'more'} than {other}'s"
    return {"name": label, "found": _said(found), "met": found.is_ahead}


def _difference(results: Results, other: str, name: str) -> Difference:
    better = next(metric.better for metric in metrics_of(results) if metric.key == name)
    found = results.compare(_STUDENT, other, name, better)
    assert found is not None, f"rows of this table share prompts, and {name} has a margin"
    return found


def _said(found: Difference) -> str:
    return f"{found.value:+.3g} [{found.low:.3g}, {found.high:.3g}], {found.verdict}"


def _at_least(name: str, value: float, target: float) -> dict[str, Any]:
    return {"name": f"{name}, at least {target:g}", "found": f"{value:.2f}", "met": value >= target}


def _value(figure: Estimate | float) -> float:
    return figure.value if isinstance(figure, Estimate) else figure


def _word(name: str) -> str:
    words = {"kernel": "kernel distance", "flow": "optical flow", "spread": "spread of pixels"}
    return words.get(name, name.removeprefix("adherence_"))


def render(results: Results, checks: Sequence[dict[str, Any]]) -> str:
    """The Markdown that goes between the markers."""
    about = results.about
    times = f"Seconds: medians of {about['rounds']} runs of {about['timed_batch']} clips at once, divided by "
    times += f"{about['timed_batch']}, rows taking turns in one process, {about['threads']} CPU threads, "
    note = (
        f"{about['count']} clips a row on the prompts of the final split, {about['samples_per_prompt']} samples a "
        f"prompt, {about['size']}, {about['dtype']}; distances to {about['reference_count']} other real clips over "
        f"{about['encoder']}; diversity and spread as shares of {about['spread_of']}', motion and sharpness of the "
        f"teacher's; 95 % bootstrap intervals over prompts. {times if about['rounds'] else ''}PyTorch "
        f"{about['torch']}, {about['machine']}."
    )
    verdicts = "\n".join(
        f"- {check['name']}: {check['found']}; " + ("met" if check["met"] else "**not met**")
        for check in checks
    )
    return f"{results_table(results)}\n\n{note}\n\n{comparison_table(results)}\n\n{verdicts}"


def run(options: TableOptions) -> dict[str, Any]:
    """Make, judge, time and report; returns what evaluation.json holds, and the targets.

    Raises:
        ValueError: If a model, the judge or the place in the document is missing.
    """
    if options.docs is not None:
        check_markers(options.docs, MARKER)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    corpus.fetch(corpus.EMOJI_FOLDER)
    judge = AttributeJudge.load(options.judge)
    if judge.classes != CLASSES:
        raise ValueError(f"{options.judge}: the judge knows other classes than the corpus; train it again.")
    features = ImageNetVideoFeatures()
    rows, size = build_rows(options)
    specs = evaluation_specs("final", options.seed, options.count, options.samples_per_prompt)
    real = corpus.corpus_specs("final", options.seed + 1000, options.reference_count)
    about = {
        name: v for name, v in asdict(options).items() if name not in ("out", "docs", "judge", "json_output")
    }
    keys = [row.key for row in rows]
    results = run_evaluation(
        Evaluation(
            tasks=[RowTask(row, specs) for row in rows],
            reference=f"teacher-{options.teacher_steps[0]}",
            real=RowTask(rows[0], real),
            judges=Judges(features, features, judge),
            seed=options.seed,
            batch_size=options.batch_size,
            cost=CostTask(options.rounds, options.timed_batch) if options.rounds else None,
            margins=MARGINS,
            pairs=[(_STUDENT, other) for other in keys[1:] if _STUDENT in keys and other != _STUDENT],
            about={**about, "size": str(size), "judge_weights": weights_digest(judge)},
        ),
        options.out,
    )
    checks = check_targets(results)
    if options.docs is not None:
        replace_between_markers(options.docs, MARKER, render(results, checks))
    return {**json.loads((options.out / RESULT_NAME).read_text(encoding="utf-8")), "targets": checks}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(TableOptions, args=argv, description=__doc__)
    try:
        result = run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result if options.json_output else result["targets"], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
