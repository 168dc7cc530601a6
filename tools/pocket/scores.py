"""Judging a row's clips, and what the judgements say beside another row's."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swd_video.evaluation.adherence import AttributeJudge, adherence
from swd_video.evaluation.diversity import diversity_share, prompt_diversity
from swd_video.evaluation.fidelity import VideoFeatures, frechet_estimate, kernel_estimate
from swd_video.evaluation.interval import Estimate, bootstrap_mean, bootstrap_ratio
from swd_video.evaluation.motion import flicker_score, flow_magnitude
from tools.pocket.corpus import ClipSpec
from tools.pocket.judge import CLASSES, attribute_labels
from tools.pocket.rows import store_arrays


@dataclass(frozen=True)
class Scores:
    """What was measured on each clip of a row."""

    features: np.ndarray
    flow: np.ndarray
    flicker: np.ndarray
    predictions: dict[str, np.ndarray]


def score_clips(
    home: Path, frames: np.ndarray, features: VideoFeatures, judge: AttributeJudge, judge_digest: str
) -> Scores:
    """Judge a row's clips; scores are kept beside the clips and read back when nothing has changed."""
    path = home / f"scores-{judge_digest[:8]}-{hashlib.sha256(features.name.encode()).hexdigest()[:8]}.npz"
    if not path.exists():
        print(f"{home.name}: judging {len(frames)} clips", file=sys.stderr)
        described = np.concatenate([features(frames[i : i + 4]) for i in range(0, len(frames), 4)])
        arrays = {
            "features": described,
            "flow": np.array([flow_magnitude(clip) for clip in frames]),
            "flicker": np.array([flicker_score(clip) for clip in frames]),
            **{f"read_{name}": values for name, values in judge.predict(frames).items()},
        }
        store_arrays(path, arrays)
    with np.load(path) as stored:
        predictions = {name: stored[f"read_{name}"] for name in CLASSES}
        return Scores(stored["features"], stored["flow"], stored["flicker"], predictions)


def row_figures(
    scores: Scores,
    baseline: Scores,
    reference: np.ndarray,
    specs: Sequence[ClipSpec],
) -> dict[str, Estimate]:
    """The quality figures of one row; intervals resample prompts.

    Clips and reference hold every prompt about equally often, so that two clips of one row share a prompt a
    little more rarely than a clip and a reference do: the kernel distance of real clips lies just below zero.
    """
    prompts = np.unique([spec.caption for spec in specs], return_inverse=True)[1].astype(np.int64)
    shares = adherence(scores.predictions, attribute_labels(specs), prompts)
    figures = {
        "subject": shares["subject"],
        "motion_read": shares["motion"],
        "background": shares["background"],
        "frechet": frechet_estimate(scores.features, reference, prompts),
        "kernel": kernel_estimate(scores.features, reference, prompts).scaled(1000.0),
        "flow": bootstrap_ratio(scores.flow, baseline.flow, prompts),
        "flow_px": bootstrap_mean(scores.flow, prompts),
        "flicker": bootstrap_mean(scores.flicker, prompts),
    }
    spread = prompt_diversity(scores.features, prompts)
    if spread:
        figures["diversity"] = diversity_share(spread, prompt_diversity(baseline.features, prompts))
        figures["diversity_distance"] = bootstrap_mean(np.array(list(spread.values())))
    return figures
