r"""The study of docs/study.md: students of equal data and iterations that differ in one thing, and what each is worth.

    python -m tools.pocket.study                     # everything that is not known yet, headline rows first
    python -m tools.pocket.study --rows rbf motion   # some rows
    python -m tools.pocket.study --commands          # the command of every run, to be started by hand

A row is distilled by `swd-video distill`, and its clips of held-out prompts are judged by networks that no loss used.
Figures go to docs/study.json as soon as they are known, with a digest of all that they depend on: a run that stands
there with the same digest is not made again. Stopped at any moment, the command goes on. Started several times side by
side, each takes the runs that no other is at.
"""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from pydantic import Field, PositiveInt

from swd_video.cli.main import main as swd_video
from swd_video.config.load import flatten, load_config, load_config_as
from swd_video.config.schema import DistillConfig
from swd_video.config.section import Section
from swd_video.core.grid import PixelSize
from swd_video.evaluation.adherence import CONFIG_NAME, AttributeJudge
from swd_video.evaluation.clip_store import make_clips
from swd_video.evaluation.cost import figures_from_json
from swd_video.evaluation.encoders import ImageNetVideoFeatures
from swd_video.evaluation.interval import Estimate
from swd_video.evaluation.report import (
    Column,
    check_markers,
    markdown_table,
    replace_between_markers,
    write_json,
)
from swd_video.evaluation.rows import Row, student_row, teacher_row, weights_digest
from swd_video.evaluation.scores import Judges, Scores, row_figures, score_clips
from swd_video.evaluation.speed import count_tflops, with_upsampler
from swd_video.models.loading import load_model, read_video_spec, resolve_model_path
from swd_video.pipelines.loading import load_student
from tools.pocket import corpus
from tools.pocket.judge import attribute_labels
from tools.pocket.rows import composed_row, evaluation_specs

MARKER = "study tables"
COLUMNS = (
    Column("adherence_subject", "subject"),
    Column("adherence_motion", "motion"),
    Column("adherence_background", "background"),
    Column("frechet", "Frechet ↓", 0),
    Column("diversity", "diversity"),
    Column("flow", "optical flow"),
    Column("sharpness", "sharpness"),
    Column("consistency", "consistency", 3, interval=False),
    Column("transformer_tflops", "TFLOPs ↓", 4),
)
# Where a run writes and how often it tells change nothing in what comes out.
_NO_MATTER = (
    "architecture",
    "data.cache",
    "data.manifest",
    "data.extra_grids",
    "data.encode_batch_size",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.sample_every",
    "train.sample_prompts",
    "upsampler.file",
)
# Keys that came after figures were known, at the value that those were made with.
_SINCE = {"upsampler": None}


class RowConfig(Section):
    """A student, or the teacher in so many steps."""

    name: str = Field(pattern=r"[a-z0-9-]+")
    """Of its folders and for `--rows`."""
    title: str
    """What the table says."""
    set: dict[str, Any] = Field(default={})
    """Keys that differ from the group's config."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    teacher_steps: PositiveInt | None = None
    """The teacher in so many steps instead of a student."""
    data: str | None = None
    """What the student's clips are, where they are not the corpus; part of the digest."""


class GroupConfig(Section):
    """Rows of one table."""

    title: str
    """Of the table."""
    config: str
    """Config of its students, beside the study's own file."""
    rows: tuple[RowConfig, ...]


class StudyConfig(Section):
    """The whole study, in the order in which it is made."""

    groups: tuple[GroupConfig, ...]


@dataclass(frozen=True)
class StudyOptions:
    """What to make and where."""

    study: Path = Path("configs/study/study.yaml")
    """Groups and rows."""
    judge: Path = Path("out/pocket/judge")
    """Folder of the judge (tools/pocket/judge.py)."""
    out: Path = Path("out/study")
    """Folder for students and clips."""
    results: Path = Path("docs/study.json")
    """What is known of every run."""
    docs: Path = Path("docs/study.md")
    """Document with the markers."""
    rows: tuple[str, ...] = ()
    """Only these rows."""
    count: int = 128
    """Clips of each run."""
    reference_count: int = 1024
    """Real clips that distances are measured to."""
    guidance: float = 3.0
    """Of the teacher."""
    minutes: float | None = None
    """Start no further run after so long."""
    device: str = "cpu"
    """Where clips are made and judged; students are trained on CUDA wherever there is one."""
    commands: bool = False
    """Print the command of each run and make nothing."""


@dataclass(frozen=True)
class Run:
    """One row with one seed."""

    row: RowConfig
    seed: int
    config_path: Path

    @property
    def key(self) -> str:
        """Its name in study.json and of its folder."""
        return f"{self.row.name}-{self.seed}"

    @property
    def overrides(self) -> dict[str, str]:
        """Dotted keys and their values as YAML."""
        return {key: json.dumps(value) for key, value in self.row.set.items()} | {"seed": str(self.seed)}

    @cached_property
    def config(self) -> DistillConfig:
        """All its keys."""
        return load_config(self.config_path, self.overrides)

    def command(self, out: Path) -> list[str]:
        """The command line that makes the student."""
        words = ["swd-video", "distill", str(self.config_path), "--out", str(out / self.key)]
        return words + [word for key, text in self.overrides.items() for word in (f"--{key}", text)]


class Bench:
    """Everything that judges: prompts, networks, and the teacher's clips that shares refer to."""

    def __init__(self, options: StudyOptions, teacher: str) -> None:
        """Load the judge; the teacher's clips are made when they are first needed."""
        self.teacher = teacher
        corpus.fetch(corpus.EMOJI_FOLDER)
        self.options = options
        features = ImageNetVideoFeatures(device=options.device)
        judge = AttributeJudge.load(options.judge, device=options.device)
        self.judges = Judges(features, features, judge)
        # A judge trained anew in the same way says the same, and is never the same to the last bit.
        about = json.loads((options.judge / CONFIG_NAME).read_text(encoding="utf-8"))
        self._judging = [features.name, self.judges.flow, about["classes"], about["about"].get("recipe")]
        self.specs = evaluation_specs(seed=1, count=options.count, samples_per_prompt=2)
        self._digests: dict[str, str] = {}

    def digest(self, run: Run) -> str | None:
        """Of all that a run's figures depend on, the code apart; None where the teacher is not there to be read."""
        weights = self._weights(str(run.config.model))
        if weights is None:
            return None
        keys = {
            key: value
            for key, value in flatten(run.config).items()
            if key not in _NO_MATTER and not (key in _SINCE and value == _SINCE[key])
        }
        what: list[Any] = [keys, run.row.teacher_steps, run.row.data, self._judging]
        what += [self.options.count, self.options.reference_count, self.options.guidance]
        what += [weights]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    @torch.no_grad()
    def figures(self, run: Run) -> dict[str, Any]:
        """Make the clips of a run whose student is trained, and judge them."""
        steps, model = run.row.teacher_steps, run.config.model
        row = self._teacher_row(steps, model) if steps else self._student_row(run)
        scores = self._scores(row, self.specs)
        labels = attribute_labels(self.specs)
        figures: dict[str, Any] = dict(row_figures(scores, self._baseline, self._reference.features, labels))
        sampler = row.sampler(self.specs[:8], seed=0)
        counted = with_upsampler(count_tflops(sampler.run, sampler.modules))
        return figures | {"transformer_tflops": counted["transformer"] / 8}

    @cached_property
    def _size(self) -> PixelSize:
        size = read_video_spec(resolve_model_path(self.teacher)).training_size
        assert size is not None
        return size

    @cached_property
    def _baseline(self) -> Scores:
        return self._scores(self._teacher_row(50, self.teacher), self.specs)

    @cached_property
    def _reference(self) -> Scores:
        return self._scores(
            composed_row(self._size), corpus.corpus_specs("heldout", 1001, self.options.reference_count)
        )

    def _scores(self, row: Row, specs: Sequence[corpus.ClipSpec]) -> Scores:
        return score_clips(
            make_clips(row, specs, self.options.out / "clips", seed=1, batch_size=16), self.judges
        )

    def _teacher_row(self, steps: int, name: str) -> Row:
        model, guidance = load_model(name, device=self.options.device), self.options.guidance
        return teacher_row(
            f"teacher-{steps}", "teacher", model, steps=steps, guidance_scale=guidance, size=self._size
        )

    def _student_row(self, run: Run) -> Row:
        pipe = load_student(self.options.out / run.key / "student", device=self.options.device)
        pipe.set_progress_bar_config(disable=True)
        return student_row(run.key, run.row.title, pipe, self._size)

    def _weights(self, model: str) -> str | None:
        if "/" in model and not Path(model).exists():
            return None
        if model not in self._digests:
            pipe = load_model(model).pipe
            self._digests[model] = weights_digest(pipe.transformer, pipe.text_encoder, pipe.vae)
        return self._digests[model]


def all_runs(study: StudyConfig, folder: Path) -> Iterator[Run]:
    """Every run, first seeds of all rows of a group before the second ones."""
    for group in study.groups:
        seeds = max(len(row.seeds) for row in group.rows)
        for number in range(seeds):
            for row in group.rows:
                if number < len(row.seeds):
                    yield Run(row, row.seeds[number], folder / group.config)


def make_run(run: Run, bench: Bench, out: Path) -> dict[str, Any]:
    """Distil where that is not done already, and judge.

    Raises:
        ValueError: If the distillation fails; it has said why.
    """
    figures: dict[str, Any] = {}
    if run.row.teacher_steps is None:
        words = run.command(out)
        status = swd_video(words[1:])
        if status:
            raise ValueError(f"{run.key}: {shlex.join(words)} ended with status {status}.")
        trained = json.loads((out / run.key / "train.json").read_text(encoding="utf-8"))
        figures["minutes"] = trained["seconds"] / 60
    return bench.figures(run) | figures


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one row: of one run as they are, of several the mean with the lowest and the highest."""
    if len(runs) == 1:
        return dict(runs[0])
    together: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name].value if isinstance(run[name], Estimate) else run[name] for run in runs]
        together[name] = Estimate(float(np.mean(values)), min(values), max(values), len(values))
    return together


def _about(options: StudyOptions) -> str:
    return (
        f"{options.count} clips of each run on held-out prompts, 2 samples a prompt; distances to "
        f"{options.reference_count} real clips; diversity, optical flow and sharpness as shares of the teacher's at 50 "
        "steps. Brackets: 95 % bootstrap intervals over prompts, or, of several seeds, the lowest and the highest. "
        "TFLOPs of the transformer for a clip."
    )


def render(study: StudyConfig, known: Mapping[str, Mapping[str, Any]], about: str) -> str:
    """The Markdown that goes between the markers: a table for each group with a row that is known."""
    parts = []
    for group in study.groups:
        rows = []
        for row in group.rows:
            runs = [known[f"{row.name}-{seed}"] for seed in row.seeds if f"{row.name}-{seed}" in known]
            if runs:
                seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
                rows.append((f"{row.title} (`{row.name}`{seeds})", over_seeds(runs)))
            else:
                rows.append((f"{row.title} (`{row.name}`): not run yet", {}))
        parts.append(f"### {group.title}\n\n{markdown_table(COLUMNS, rows)}")
    return "\n\n".join([*parts, about])


@dataclass(frozen=True)
class Record:
    """docs/study.json and the tables made of it, which several commands may add to."""

    study: StudyConfig
    options: StudyOptions
    digests: Mapping[str, str | None]
    """Of every run by its name: figures with another digest say nothing beside new ones. Where there is none, what is
    known counts."""

    def lock(self, name: str) -> FileLock:
        """Held by the command that is at a run, or at the record itself; given up when it dies."""
        folder = self.options.out / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)

    def known(self) -> dict[str, dict[str, Any]]:
        """Figures of every run that is known."""
        entries = self._entries().items()
        return figures_from_json(
            {
                key: entry["figures"]
                for key, entry in entries
                if key in self.digests and self.digests[key] in (entry["digest"], None)
            }
        )

    def add(self, figures: Mapping[str, dict[str, Any]]) -> None:
        """Write figures of further runs beside what is known, and the tables anew."""
        with self.lock("record"):
            # Old figures stay until there are new ones. Runs that this study lacks may be a newer one's.
            entries = self._entries()
            entries |= {key: {"digest": self.digests[key], "figures": new} for key, new in figures.items()}
            # In the study's order, whoever comes first.
            ordered = {key: entries.pop(key) for key in self.digests if key in entries}
            write_json(self.options.results, ordered | entries)
            text = render(self.study, self.known(), _about(self.options))
            replace_between_markers(self.options.docs, MARKER, text)

    def _entries(self) -> dict[str, dict[str, Any]]:
        path = self.options.results
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run_study(options: StudyOptions) -> int:
    """Make what is not known yet; returns the number of runs that failed.

    Raises:
        ValueError: If the study's file, a name of `--rows` or the document is wrong.
    """
    study = load_config_as(StudyConfig, options.study)
    runs = list(all_runs(study, options.study.parent))
    unknown = set(options.rows) - {run.row.name for run in runs}
    if unknown:
        raise ValueError(f"--rows: {options.study} has no row {', '.join(sorted(unknown))}.")
    chosen = [run for run in runs if not options.rows or run.row.name in options.rows]
    if options.commands:
        print("\n".join(shlex.join(run.command(options.out)) for run in chosen if not run.row.teacher_steps))
        return 0
    check_markers(options.docs, MARKER)
    bench = Bench(options, runs[0].config.model)
    record = Record(study, options, {run.key: bench.digest(run) for run in runs})
    record.add({})
    began, failed = time.monotonic(), 0
    for run in chosen:
        if options.minutes is not None and time.monotonic() - began > 60 * options.minutes:
            break
        try:
            with record.lock(run.key).acquire(timeout=0):
                if run.key not in record.known():
                    if record.digests[run.key] is None:
                        raise ValueError(
                            f"{run.key}: there is no model {run.config.model} yet; make it first."
                        )
                    record.add({run.key: make_run(run, bench, options.out)})
        except Timeout:
            continue
        except (ValueError, FileNotFoundError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(StudyOptions, args=argv, description=__doc__)
    try:
        return 1 if run_study(options) else 0
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
