"""What metrics measure on the clips of a row, kept beside them, and what it says beside another row's."""

import hashlib
import sys
from collections.abc import Sequence

import numpy as np

from swd_video.core.interval import Estimate
from swd_video.evaluation.clip_store import StoredClips, store_arrays
from swd_video.evaluation.metrics import METRICS
from swd_video.evaluation.metrics.fidelity import KernelDistance
from swd_video.evaluation.metrics.metric import Batch, Beside, Metric, Networks, Scores
from swd_video.evaluation.rows import weights_digest

_CLIPS_AT_ONCE = 4


def score_clips(clips: StoredClips, networks: Networks, metrics: Sequence[Metric] = METRICS) -> Scores:
    """Measure a row's clips; scores are kept beside the clips and read back when nothing has changed."""
    path = clips.folder / f"scores-{_digest(networks, metrics)}.npz"
    if not path.exists():
        print(f"{clips.folder.name}: judging {len(clips.captions)} clips", file=sys.stderr)
        parts = []
        for frames in clips.batches():
            for start in range(0, len(frames), _CLIPS_AT_ONCE):
                batch = Batch(frames[start : start + _CLIPS_AT_ONCE], networks)
                parts.append({n: values for metric in metrics for n, values in metric.measure(batch).items()})
        store_arrays(path, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    with np.load(path) as stored:
        return Scores(clips.captions, {name: stored[name] for name in stored.files})


def row_figures(scores: Scores, beside: Beside, metrics: Sequence[Metric] = METRICS) -> dict[str, Estimate]:
    """The quality figures of one row."""
    return {key: figure for metric in metrics for key, figure in metric.summarise(scores, beside).items()}


def distance_floor(reference: Scores) -> dict[str, Estimate]:
    """Distances of one half of the reference clips to the other: what clips of no fault at all would have.

    A prompt's clips are dealt to the halves in turn. With half the clips the Frechet distance is larger than with all.
    """
    order = np.argsort(reference.prompts, kind="stable")
    first, second = (reference.taken(order[start::2]) for start in (0, 1))
    beside = Beside(second, second)
    return row_figures(first, beside, [metric for metric in METRICS if isinstance(metric, KernelDistance)])


def _digest(networks: Networks, metrics: Sequence[Metric]) -> str:
    """Eight hexadecimal digits that change with anything that the scores depend on."""
    judge = "" if networks.judge is None else weights_digest(networks.judge)
    parts = [networks.encoder.name, networks.frame_encoder.name, judge, networks.flow]
    parts += [f"{type(metric).__module__}.{type(metric).__qualname__}" for metric in metrics]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
