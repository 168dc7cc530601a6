"""Measuring the clips of a row once, and what the measurements say beside other rows'."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swd_video.core.interval import Estimate
from swd_video.evaluation.clip_store import StoredClips, is_stored, read_arrays, store_arrays
from swd_video.evaluation.judges import Batch, Judges
from swd_video.evaluation.metrics.metric import Beside, Metric, Scores
from swd_video.files import hash_file

_CLIPS_AT_ONCE = 4


def score_clips(clips: StoredClips, metrics: Sequence[Metric], judges: Judges) -> Scores:
    """Measure a row's clips; scores are kept beside the clips and read back when nothing has changed."""
    kinds = [
        f"{type(m).__module__}:{type(m).__qualname__} {m.key} {m.version}{_source_of(m)}" for m in metrics
    ]
    digest = hashlib.sha256("\n".join([*judges.names, *kinds]).encode()).hexdigest()[:8]
    path = clips.folder / f"scores-{digest}.npz"
    if not is_stored(path):
        print(f"{clips.folder.name}: judging {len(clips.captions)} clips", file=sys.stderr)
        batches = [
            _measure(Batch(frames[start : start + _CLIPS_AT_ONCE], judges), metrics)
            for frames in clips.batches()
            for start in range(0, len(frames), _CLIPS_AT_ONCE)
        ]
        store_arrays(path, {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]})
    return Scores(clips.captions, read_arrays(path))


def row_figures(metrics: Sequence[Metric], scores: Scores, beside: Beside) -> dict[str, Estimate]:
    """The quality figures of one row, of every metric that can judge by its captions."""
    figures: dict[str, Estimate] = {}
    for metric in metrics:
        figures |= metric.summarise(scores, beside)
    return figures


def distance_floor(metrics: Sequence[Metric], reference: Scores) -> dict[str, Estimate]:
    """Distances of one half of the reference clips to the other: what clips of no fault at all would have.

    A prompt's clips are dealt to the halves in turn. With half the clips the Frechet distance is larger than with all.
    """
    order = np.argsort(reference.prompts, kind="stable")
    first, second = (reference.take(order[start::2]) for start in (0, 1))
    return row_figures([metric for metric in metrics if metric.has_floor], first, Beside(second, second))


def _source_of(metric: Metric) -> str:
    """What tells that a metric from outside was edited: whoever tries things out counts no versions up."""
    name = type(metric).__module__
    if name.partition(".")[0] == __package__.partition(".")[0]:
        return ""
    file = getattr(sys.modules[name], "__file__", None)  # a notebook has none
    return "" if file is None else f" {hash_file(Path(file))}"


def _measure(clips: Batch, metrics: Sequence[Metric]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for metric in metrics:
        measured = metric.measure(clips)
        for name, values in measured.items():
            shape, count = np.shape(values), len(clips.frames)
            if shape[:1] != (count,) or not np.isfinite(values).all():
                raise ValueError(
                    f"metric {metric.key}: measure gave {name} of shape {shape} with "
                    f"{int(np.sum(~np.isfinite(values)))} values that are no finite numbers for {count} clips; "
                    "expected finite numbers, with a first axis of clips."
                )
        # Several metrics may ask for the same, such as features; it is stored once.
        arrays |= measured
    return arrays
