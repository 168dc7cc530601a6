r"""Make the table of docs/pocket.md: teacher, students and real clips on held-out prompts, and their cost.

    python -m tools.pocket.table --judge runs/pocket/judge --out runs/pocket/table \
        --full-resolution runs/pocket/full-4 --two-step runs/pocket/full-2 --spatiotemporal pocket-wan-swd

Clips are made row by row and kept in batches, scores beside them, so the command may be killed and run again.
Nothing here judges with a network that trained a student: adherence is read by the judge of
tools/pocket/judge.py, fidelity and diversity over ImageNet features, motion by optical flow. All rows start
clip i from the same seed. Speed is measured at the end, one batch at a time, the rows taking turns in this one
process.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from swd_video.core.grid import PixelSize
from swd_video.evaluation.adherence import AttributeJudge
from swd_video.evaluation.clip_store import make_clips
from swd_video.evaluation.cost import cost_figures, machine_name
from swd_video.evaluation.encoders import PACKAGED, ImageNetVideoFeatures
from swd_video.evaluation.overlap import JudgingNetwork, check_overlap
from swd_video.evaluation.report import (
    Column,
    check_markers,
    markdown_table,
    replace_between_markers,
    write_json,
)
from swd_video.evaluation.rows import Row, student_row, teacher_row, through_vae, weights_digest
from swd_video.evaluation.scores import Judges, Scores, row_figures, score_clips
from swd_video.models.loading import load_model, resolve_model_path
from swd_video.pipelines.loading import load_student
from tools.pocket import corpus
from tools.pocket.judge import CLASSES, attribute_labels
from tools.pocket.rows import composed_row, evaluation_specs

MARKER = "pocket table"
COLUMNS = (
    Column("subject", "subject"),
    Column("motion_read", "motion"),
    Column("background", "background"),
    Column("frechet", "Frechet ↓", 1),
    Column("kernel", "kernel x 1000 ↓", 1),
    Column("diversity", "diversity, share of teacher's"),
    Column("flow", "optical flow, share of teacher's"),
    Column("sharpness", "sharpness, share of teacher's"),
    Column("flicker", "steadiness (VBench)", 3, interval=False),
    Column("consistency", "subject consistency (VBench's formula)", 3, interval=False),
    Column("transformer_seconds", "transformer s/clip ↓", 3),
    Column("total_seconds", "all s/clip ↓", 3, interval=False),
    Column("transformer_tflops", "transformer TFLOPs ↓", 4),
)


_ADHERENCE = ("subject", "motion_read", "background")
_TWO_STEPS = "two-step"


@dataclass(frozen=True)
class TableOptions:
    """What to judge and how."""

    judge: Path
    """Folder of the judge (tools/pocket/judge.py)."""
    out: Path
    """Folder for clips, scores, timings and table.json."""
    teacher: str = "pocket-wan"
    full_resolution: str | None = None
    """Student with all its stages at full size."""
    two_step: tuple[str, ...] = ()
    """Students with two stages at full size."""
    spatiotemporal: str | None = None
    """Student whose stages grow in space and time."""
    others: tuple[str, ...] = ()
    """More students, each as TITLE=FOLDER."""
    docs: Path | None = Path("docs/pocket.md")
    """Document with the markers; "None" to leave it alone."""
    size: str | None = None
    """Clip size of the teacher, FRAMESxHEIGHTxWIDTH; default what the model folder says."""
    guidance: float = 3.0
    teacher_steps: tuple[int, ...] = (50, 8, 4)
    """Sampling steps of the teacher's rows; the first is what shares refer to."""
    count: int = 256
    """Clips in each row."""
    samples_per_prompt: int = 2
    reference_count: int = 1024
    """Real clips, of other seeds, that the distances are measured to."""
    codec: bool = True
    """Also judge real clips that went through the VAE."""
    batch_size: int = 16
    dtype: Literal["fp32", "bf16"] = "fp32"
    rounds: int = 5
    """Timed runs of each row."""
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
    if options.codec:
        rows.append(through_vae(rows[0], "codec", "real clips through the VAE", teacher))
    for steps in options.teacher_steps:
        title = f"teacher, {steps} steps, guidance {options.guidance:g}"
        rows.append(
            teacher_row(
                f"teacher-{steps}", title, teacher, steps=steps, guidance_scale=options.guidance, size=size
            )
        )
    students = [("full-resolution", "student, full resolution", options.full_resolution)]
    for number, path in enumerate(options.two_step, start=1):
        students.append((f"{_TWO_STEPS}-{number}", "student, full resolution, 2 steps", path))
    students.append(("spatiotemporal", "student, space and time", options.spatiotemporal))
    for other in options.others:
        title, equals, path = other.partition("=")
        if not equals:
            raise ValueError(f"--others: got {other!r}, expected TITLE=FOLDER.")
        students.append(("".join(c if c.isalnum() else "-" for c in title.lower()), title, path))
    judging = [JudgingNetwork("--judge", str(options.judge)), JudgingNetwork("features", PACKAGED)]
    for key, title, folder in students:
        if folder is not None:
            if not check_overlap(resolve_model_path(folder), judging):
                print(f"{folder}: does not say which networks trained it", file=sys.stderr)
            student = load_student(folder, dtype=dtype)
            student.set_progress_bar_config(disable=True)
            stages = " → ".join(f"{stage.grid} from {stage.sigma:g}" for stage in student.scheduler.schedule)
            rows.append(student_row(key, f"{title} ({stages})", student, size))
    return rows, size


def check_targets(figures: Mapping[str, Mapping[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Hold the figures against what the pocket world must reach; only what the rows allow.

    Args:
        figures: estimates by the key of the row and the name of the figure; diversity and flow as shares of the
            teacher's, times in seconds.
        baseline: key of the teacher's row that shares refer to.

    Returns:
        For each target its name, the value, the target, and whether it is met.
    """
    teacher = figures[baseline]
    checks = [_at_least(f"teacher's {_word(name)}", teacher[name].value, 0.95) for name in _ADHERENCE]
    student = figures.get("spatiotemporal")
    if student is None:
        return checks
    checks += _check_against_teacher(student, teacher)
    full = figures.get("full-resolution")
    seconds = student["transformer_seconds"].value
    if full is not None:
        checks += _check_against_full(student, full)
    for other, target in (("full-resolution", 2.3), (baseline, 40.0)):
        if other in figures:
            gain = figures[other]["transformer_seconds"].value / seconds
            checks.append(_at_least(f"transformer time, times as fast as {other}", gain, target))
    two_steps = [key for key in figures if key.startswith(_TWO_STEPS)]
    for key in two_steps:
        checks += _check_against_two_steps(key, student, figures[key])
    return checks


def _check_against_teacher(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[dict[str, Any]]:
    shares = {name: student[name].value / max(teacher[name].value, 1e-9) for name in _ADHERENCE}
    targets = [(name, share, target) for target in (0.95, 0.97) for name, share in shares.items()]
    targets += [("diversity", student["diversity"].value, 0.80), ("flow", student["flow"].value, 0.90)]
    return [
        *(_at_least(f"student's {_word(name)}, share of the teacher's", *rest) for name, *rest in targets),
        _no_worse("frechet", student, teacher, "the teacher's"),
    ]


def _check_against_full(student: Mapping[str, Any], full: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = (*_ADHERENCE, "frechet", "flow")
    share = student["transformer_seconds"].value / full["transformer_seconds"].value
    return [
        *(_no_worse(name, student, full, "the full-resolution student's") for name in names),
        _target(
            "transformer time, share of the full-resolution student's, at most", share, 0.40, share <= 0.40
        ),
    ]


def _check_against_two_steps(
    key: str, student: Mapping[str, Any], two_step: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Better beyond what chance explains: in a figure that single clips are judged by, in motion, in diversity."""
    checks = []
    for names in (("subject", "frechet"), ("flow",), ("diversity",)):
        ahead = [
            _word(name)
            for name in names
            if _is_better(name, student, two_step) and not student[name].overlaps(two_step[name])
        ]
        asked = " or ".join(map(_word, names))
        label = f"student clearly better than {key}, 2 steps at full resolution, in {asked}"
        found = f" ({' and '.join(ahead) or 'neither'})" if len(names) > 1 else ""
        checks.append(_at_least(label + found, len(ahead), 1))
    return checks


def _is_better(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    lower_is_better = name == "frechet"
    return bool((ours[name].value < theirs[name].value) == lower_is_better)


def _no_worse(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], whose: str) -> dict[str, Any]:
    met = _is_better(name, ours, theirs) or ours[name].overlaps(theirs[name])
    bound = "at most" if name == "frechet" else "at least"
    label = f"student's {_word(name)}, {bound} {whose} or equal,"
    return _target(label, ours[name].value, theirs[name].value, met)


def _at_least(name: str, value: float, target: float) -> dict[str, Any]:
    return _target(f"{name}, at least", value, target, value >= target)


def _target(name: str, value: float, target: float, met: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "target": target, "met": bool(met)}


def _word(name: str) -> str:
    return {"motion_read": "motion", "frechet": "Frechet distance", "flow": "optical flow"}.get(name, name)


def render(
    rows: Sequence[Row],
    figures: Mapping[str, Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> str:
    """The Markdown that goes between the markers."""
    table = markdown_table(COLUMNS, [(row.title, figures[row.key]) for row in rows])
    note = (
        f"{about['count']} clips a row on held-out prompts, {about['samples_per_prompt']} samples a prompt, "
        f"{about['size']}, {about['dtype']}; distances to {about['reference_count']} other real clips over "
        f"{about['features']}, the real clips' own distance being the floor; 95 % bootstrap intervals over "
        f"prompts, so figures whose intervals overlap are equal. Seconds: medians of {about['rounds']} runs of "
        f"{about['timed_batch']} clips at once, divided by {about['timed_batch']}, "
        f"rows taking turns in one process, {about['threads']} CPU threads, PyTorch {about['torch']}, "
        f"{about['machine']}."
    )
    verdicts = "\n".join(
        f"- {check['name']} {check['target']:.2f}: {check['value']:.2f}, "
        + ("met" if check["met"] else "**not met**")
        for check in checks
    )
    return f"{table}\n\n{note}\n\n{verdicts}"


def run(options: TableOptions) -> dict[str, Any]:
    """Make, judge, time and report; returns what table.json holds.

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
    judges = Judges(features, features, judge)
    rows, size = build_rows(options)
    specs = evaluation_specs(options.seed, options.count, options.samples_per_prompt)
    reference_specs = corpus.corpus_specs("heldout", options.seed + 1000, options.reference_count)

    def scored(row: Row, which: Sequence[corpus.ClipSpec]) -> Scores:
        clips = make_clips(
            row, which, options.out / "clips", seed=options.seed, batch_size=options.batch_size
        )
        return score_clips(clips, judges)

    reference = scored(rows[0], reference_specs)
    scores = {row.key: scored(row, specs) for row in rows}
    baseline = f"teacher-{options.teacher_steps[0]}"
    labels = attribute_labels(specs)
    figures: dict[str, dict[str, Any]] = {
        key: _renamed(row_figures(value, scores[baseline], reference.features, labels))
        for key, value in scores.items()
    }
    costs = cost_figures(rows, specs[: options.timed_batch], rounds=options.rounds, seed=options.seed)
    for key, cost in costs.items():
        figures[key].update(cost)
    checks = check_targets(figures, baseline)
    about = _about(options, size, features.name, weights_digest(judge))
    result = {
        "about": about,
        "rows": figures,
        "titles": {row.key: row.title for row in rows},
        "targets": checks,
    }
    write_json(options.out / "table.json", result)
    if options.docs is not None:
        replace_between_markers(options.docs, MARKER, render(rows, figures, checks, about))
    return result


def _about(options: TableOptions, size: PixelSize, features: str, judge_digest: str) -> dict[str, Any]:
    kept = asdict(options)
    about = {
        name: value for name, value in kept.items() if name not in ("out", "docs", "judge", "json_output")
    }
    return {
        **about,
        "size": str(size),
        "features": features,
        "judge_weights": judge_digest,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine_name(),
    }


def _renamed(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Adherence by the names that the table has always had; "motion" alone would be the optical flow's."""
    return {
        name.replace("adherence_motion", "motion_read").removeprefix("adherence_"): value
        for name, value in figures.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(TableOptions, args=argv, description=__doc__)
    try:
        result = run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json_output:
        print((options.out / "table.json").read_text(encoding="utf-8"))
    else:
        print(json.dumps(result["targets"], indent=2))
        print(f"wrote {options.out / 'table.json'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
