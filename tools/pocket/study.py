r"""The study of docs/study.md: students of equal data and iterations that differ in one thing, and what each is worth.

    python -m tools.pocket.study                     # everything that is not known yet, headline rows first
    python -m tools.pocket.study --rows rbf motion   # some rows
    python -m tools.pocket.study --commands          # the command of every run, to be started by hand

A row is distilled by `swd-video distill`, and its clips of the held-out prompts that are there to choose on (split
"choose"; the final table has others) are judged by networks that no loss used. Rows are compared with the first of
their table by paired differences. All goes to docs/study.json as soon as it is known, with a digest of what it depends
on: a run that stands there with the same digest is not made again. Stopped at any moment, the command goes on. Started
several times side by side, each takes the runs that no other is at.
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
from typing import Any, Final

import torch
import tyro
from filelock import FileLock, Timeout

from swd_video.cli.main import main as swd_video
from swd_video.config import flatten, load_config_as
from swd_video.core.grid import PixelSize
from swd_video.cost.speed import by_stage, count_tflops
from swd_video.evaluation.attribute_judge import CONFIG_NAME, AttributeJudge
from swd_video.evaluation.clip_features import imagenet_features
from swd_video.evaluation.clip_store import StoredClips, make_clips
from swd_video.evaluation.config import RealRowConfig, StudentRowConfig, TeacherRowConfig
from swd_video.evaluation.judges import Judges
from swd_video.evaluation.metrics import all_metrics, default_margins
from swd_video.evaluation.metrics.metric import Beside, Scores
from swd_video.evaluation.report import (
    check_markers,
    replace_between_markers,
    write_figures,
)
from swd_video.evaluation.results import Results, RowResult
from swd_video.evaluation.rows import Row, real_row, student_row, teacher_row
from swd_video.evaluation.scores import row_figures, score_clips
from swd_video.models.fingerprint import weights_digest
from swd_video.models.loading import load_teacher, read_video_spec, resolve_model_path
from swd_video.student.student import load_student
from swd_video.training.config import DistillConfig, load_config
from tools.pocket import corpus
from tools.pocket.rows import ComposedClips, evaluation_specs
from tools.pocket.study_tables import RowConfig, StudyConfig, about, render

MARKER = "study tables"
SPLIT: Final = "choose"
BASELINE_STEPS = 50
"""Of the teacher whose clips shares refer to."""
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
    docs: Path = Path("docs/study-tables.md")
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
    first: "Run | None" = None
    """Of the group's first row, with this seed or its first, which this run is compared with; None for itself."""

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
        features = imagenet_features(device=options.device)
        judge = AttributeJudge.load(options.judge, device=options.device)
        self.judges = Judges(features, features, judge)
        self.metrics = all_metrics(self.judges.classes)
        # A judge trained anew in the same way says the same, and is never the same to the last bit.
        record = json.loads((options.judge / CONFIG_NAME).read_text(encoding="utf-8"))
        self._judging = [features.name, self.judges.flow, record["classes"], record["about"].get("recipe")]
        self.specs = evaluation_specs(SPLIT, seed=1, count=options.count, samples_per_prompt=2)
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
    def judge(self, run: Run) -> dict[str, Any]:
        """Make the clips of a run whose student is trained, and judge them: figures, and differences from the first."""
        row, result = self._result(run)
        sampler = row.sampler(self.specs[:8], seed=0)
        counted = by_stage(count_tflops(sampler.run, sampler.modules))
        found: dict[str, Any] = {
            "figures": result.figures | {"transformer_tflops": counted["transformer"] / 8},
            "split": SPLIT,
        }
        if run.first is not None and self.is_at_hand(run.first):
            pair = (result.key, run.first.key)
            rows = [self._result(run.first)[1], result]
            results = Results(rows, run.first.key, {}, self.metrics, default_margins(), pairs=[pair])
            compared = results.as_json()["comparisons"][0]
            found |= {"against": compared["against"], "differences": compared["differences"]}
        return found

    def is_at_hand(self, run: Run) -> bool:
        """Whether its clips can be made without training."""
        return bool(run.row.teacher_steps) or (self.options.out / run.key / "student").is_dir()

    def _result(self, run: Run) -> tuple[Row, RowResult]:
        steps, model = run.row.teacher_steps, run.config.model
        row = self._teacher_row(steps, model) if steps else self._student_row(run)
        clips, scores = self._scores(row, self.specs)
        figures = row_figures(self.metrics, scores, Beside(self._baseline, self._reference))
        return row, RowResult(run.key, run.row.title, dict(figures), clips)

    @cached_property
    def _size(self) -> PixelSize:
        size = read_video_spec(resolve_model_path(self.teacher)).training_size
        assert size is not None
        return size

    @cached_property
    def _baseline(self) -> Scores:
        return self._scores(self._teacher_row(BASELINE_STEPS, self.teacher), self.specs)[1]

    @cached_property
    def _reference(self) -> Scores:
        clips = ComposedClips(split=SPLIT, seed=1001, count=self.options.reference_count)
        specs = clips.find()
        row = real_row(
            RealRowConfig.model_validate({"key": "real", "clips": clips}),
            self._size,
            corpus.frame_rate(self._size),
            specs,
        )
        return self._scores(row, specs)[1]

    def _scores(self, row: Row, specs: Sequence[corpus.ClipSpec]) -> tuple[StoredClips, Scores]:
        clips = make_clips(row, specs, self.options.out / "clips", seed=1, batch_size=16)
        return clips, score_clips(clips, self.metrics, self.judges)

    def _teacher_row(self, steps: int, name: str) -> Row:
        model, guidance = load_teacher(name, device=self.options.device), self.options.guidance
        section = TeacherRowConfig(
            key=f"teacher-{steps}", title="teacher", model=name, steps=steps, guidance_scale=guidance
        )
        return teacher_row(section, model, self._size)

    def _student_row(self, run: Run) -> Row:
        folder = self.options.out / run.key / "student"
        pipe = load_student(folder, device=self.options.device)
        pipe.set_progress_bar_config(disable=True)
        section = StudentRowConfig(key=run.key, title=run.row.title, model=str(folder))
        return student_row(section, pipe, self._size)

    def _weights(self, model: str) -> str | None:
        if "/" in model and not Path(model).exists():
            return None
        if model not in self._digests:
            pipe = load_teacher(model).pipe
            self._digests[model] = weights_digest(pipe.transformer, pipe.text_encoder, pipe.vae)
        return self._digests[model]


def all_runs(study: StudyConfig, folder: Path) -> Iterator[Run]:
    """Every run, first seeds of all rows of a group before the second ones."""
    for group in study.groups:
        config = folder / group.config
        firsts = {seed: Run(group.rows[0], seed, config) for seed in group.rows[0].seeds}
        seeds = max(len(row.seeds) for row in group.rows)
        for number in range(seeds):
            for row in group.rows:
                if number < len(row.seeds):
                    seed = row.seeds[number]
                    first = firsts.get(seed, firsts[group.rows[0].seeds[0]])
                    yield Run(row, seed, config, None if row is group.rows[0] else first)


def make_run(run: Run, bench: Bench, out: Path) -> dict[str, Any]:
    """Distil where that is not done already, and judge.

    Raises:
        ValueError: If the distillation fails; it has said why.
    """
    minutes: dict[str, Any] = {}
    if run.row.teacher_steps is None:
        words = run.command(out)
        status = swd_video(words[1:])
        if status:
            raise ValueError(f"{run.key}: {shlex.join(words)} ended with status {status}.")
        trained = json.loads((out / run.key / "train.json").read_text(encoding="utf-8"))
        minutes["minutes"] = trained["seconds"] / 60
    found = bench.judge(run)
    return found | {"figures": found["figures"] | minutes}


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
        """What is known of every run."""
        return {
            key: entry
            for key, entry in self._entries().items()
            if key in self.digests and self.digests[key] in (entry["digest"], None)
        }

    def add(self, found: Mapping[str, dict[str, Any]]) -> None:
        """Write what was found of further runs beside what is known, and the tables anew."""
        with self.lock("record"):
            # Old figures stay until there are new ones. Runs that this study lacks may be a newer one's.
            entries = self._entries()
            entries |= {key: {"digest": self.digests[key], **new} for key, new in found.items()}
            # In the study's order, whoever comes first.
            ordered = {key: entries.pop(key) for key in self.digests if key in entries}
            write_figures(self.options.results, ordered | entries)
            below = about(self.options.count, self.options.reference_count)
            text = render(self.study, self.known(), below)
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
                entry = record.known().get(run.key)
                # What was judged under the old rule is judged again where that needs no training.
                if entry is None or ("split" not in entry and bench.is_at_hand(run)):
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
