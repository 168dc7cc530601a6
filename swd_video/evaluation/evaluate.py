"""An evaluation from clips to figures: every row's clips, what is measured on them, and what they cost."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swd_video.evaluation.clip_store import StoredClips, make_clips
from swd_video.evaluation.columns import as_json
from swd_video.evaluation.cost import Figures, cost_figures, figures_from_json, machine_name
from swd_video.evaluation.report import write_json
from swd_video.evaluation.results import Results, RowResult
from swd_video.evaluation.rows import Request, Row
from swd_video.evaluation.scores import (
    Judges,
    Scores,
    distance_floor,
    is_spread_over,
    labels_from_captions,
    row_figures,
    score_clips,
)

RESULT_NAME = "evaluation.json"


@dataclass(frozen=True)
class RowTask:
    """A row and what it is to show.

    Attributes:
        row: The row.
        requests: Its clips.
        is_real: Whether the clips are real, so that the judge may know nothing of their captions.
    """

    row: Row
    requests: Sequence[Request]
    is_real: bool = False


@dataclass(frozen=True)
class CostTask:
    """How cost is measured: `rounds` runs of `batch_size` clips at once."""

    rounds: int
    batch_size: int


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation needs.

    Attributes:
        tasks: Rows in the order of the table.
        reference: Key of the row whose motion and sharpness count as 1.
        real: Real clips that distances are measured to; None measures them to the reference row's.
        judges: What measures clips.
        seed: Of the noise.
        batch_size: Clips made at once.
        cost: None measures no cost.
        margins: See `Results`.
        pairs: See `Results`.
        about: What the results say of how they were made.
    """

    tasks: Sequence[RowTask]
    reference: str
    real: RowTask | None
    judges: Judges
    seed: int
    batch_size: int
    cost: CostTask | None
    margins: Mapping[str, float] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def run_evaluation(evaluation: Evaluation, out: Path) -> Results:
    """Make the clips that are missing, measure what was not measured yet, and write `evaluation.json`.

    Args:
        evaluation: What to compare.
        out: Folder of the evaluation.

    Raises:
        ValueError: If a prompt asks for what the judge does not know.
    """
    labels = {task.row.key: _labels(task, evaluation.judges) for task in evaluation.tasks}

    def measured(task: RowTask) -> tuple[StoredClips, Scores]:
        clips = make_clips(
            task.row, task.requests, out / "clips", seed=evaluation.seed, batch_size=evaluation.batch_size
        )
        return clips, score_clips(clips, evaluation.judges)

    real = None if evaluation.real is None else measured(evaluation.real)[1]
    rows = {task.row.key: measured(task) for task in evaluation.tasks}
    baseline = rows[evaluation.reference][1]
    costs = _costs(evaluation, out)
    results = []
    for task in evaluation.tasks:
        key = task.row.key
        clips, scores = rows[key]
        # The distance of a set to itself says nothing.
        reference = real if real is not None else None if key == evaluation.reference else baseline
        figures: Figures = {**row_figures(scores, baseline, reference, labels[key]), **costs.get(key, {})}
        results.append(RowResult(key, task.row.title, figures, clips))
    title = next(task.row.title for task in evaluation.tasks if task.row.key == evaluation.reference)
    about = {
        **evaluation.about,
        "clips": {row.key: len(row.clips.captions) for row in results},
        "distances_to": "real clips" if real is not None else f"the clips of {evaluation.reference}",
        "spread_of": "real clips" if real is not None and is_spread_over(real, baseline) else title,
        "real_clips": None if real is None else len(real.captions),
        "encoder": evaluation.judges.encoder.name,
        "frame_encoder": evaluation.judges.frame_encoder.name,
        "optical_flow": evaluation.judges.flow,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine_name(),
    }
    floor = {} if real is None else distance_floor(real)
    found = Results(results, evaluation.reference, about, floor, evaluation.margins, evaluation.pairs)
    write_json(out / RESULT_NAME, as_json(found))
    return found


def _labels(task: RowTask, judges: Judges) -> dict[str, np.ndarray]:
    if judges.judge is None:
        return {}
    try:
        return labels_from_captions(judges.judge.classes, [request.caption for request in task.requests])
    except ValueError as error:
        if not task.is_real:
            raise
        print(
            f"{task.row.key}: no adherence, for its captions are not in the judge's words: {error}",
            file=sys.stderr,
        )
        return {}


def _costs(evaluation: Evaluation, out: Path) -> dict[str, Figures]:
    """Measured once: the same rows on the same machine with the same threads are not timed again."""
    cost = evaluation.cost
    tasks = [task for task in evaluation.tasks if task.row.modules]
    if cost is None or not tasks:
        return {}
    requests = tasks[0].requests[: cost.batch_size]
    conditions = [
        *[task.row.digest(task.row.key) for task in tasks],
        [str(request) for request in requests],
        cost.rounds,
        torch.get_num_threads(),
        torch.__version__,
        machine_name(),
    ]
    digest = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:8]
    path = out / "costs" / f"{digest}.json"
    if not path.is_file():
        figures = cost_figures(
            [task.row for task in tasks], requests, rounds=cost.rounds, seed=evaluation.seed
        )
        write_json(path, figures)
    return figures_from_json(json.loads(path.read_text(encoding="utf-8")))
