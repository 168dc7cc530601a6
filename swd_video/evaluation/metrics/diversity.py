"""Diversity: how far the samples of one prompt lie apart, in features and in plain pixels."""

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from swd_video.core.interval import Estimate, bootstrap_mean, bootstrap_ratio
from swd_video.evaluation.clip_store import check_clips
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import Beside, Metric, Scores, caption_numbers

_THUMBNAIL_PX = 16
_THUMBNAIL_FRAMES = 9


class Diversity(Metric):
    """How far the samples of a prompt lie apart in features."""

    key = "diversity"
    title = "diversity, share"
    better = "reference"
    margin = 0.05
    meaning = (
        "How much the samples of one prompt differ in what {encoder} sees, as a share of {spread_of}. Artefacts that "
        "come and go count too, so more than 1 is no merit."
    )
    measured = "features"

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """The encoder's features."""
        return {self.measured: batch.features}

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """As it is, and as a share of other clips', where something was measured."""
        if self.measured not in scores.arrays:
            return {}
        numbers = caption_numbers(scores, beside.spread_of)
        spread, theirs = (
            prompt_diversity(row[self.measured], np.array([numbers[c] for c in row.captions]))
            for row in (scores, beside.spread_of)
        )
        figures = {}
        if spread.keys() & theirs.keys():
            figures[self.key] = diversity_share(spread, theirs)
        if spread:
            figures[f"{self.key}_distance"] = bootstrap_mean(np.array(list(spread.values())))
        return figures


class Spread(Diversity):
    """How far the samples of a prompt lie apart in plain pixels; see `thumbnail`."""

    key = "spread"
    title = "spread of pixels, share"
    meaning = (
        "How much the samples of one prompt differ in plain pixels, reduced to 16 along the shorter side, as a share "
        "of {spread_of}. Below 1, the model makes more of the same."
    )
    measured = "thumbnails"

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of each clip."""
        return {self.measured: np.stack([thumbnail(clip) for clip in batch.frames])}


def thumbnail(frames: UInt8[np.ndarray, "frames height width 3"]) -> Float[np.ndarray, " values"]:
    """A clip's low frequencies as one vector, whose distance from another is the root mean square of grey levels.

    Means over squares, 16 along the shorter side, of nine frames spread over the clip. Finer detail is left out: there
    artefacts and noise differ from sample to sample, and a blurring VAE takes away what real clips have.

    Raises:
        ValueError: If there are fewer than two frames or they are not uint8 RGB.
    """
    check_clips(frames[None])
    height, width = frames.shape[1:3]
    shrink = min(1.0, _THUMBNAIL_PX / min(height, width))
    size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    chosen = np.linspace(0, len(frames) - 1, min(_THUMBNAIL_FRAMES, len(frames))).round().astype(int)
    small = [
        cv2.resize(frames[index].astype(np.float32), size, interpolation=cv2.INTER_AREA) for index in chosen
    ]
    values = np.stack(small).reshape(-1)
    return np.asarray(values / np.sqrt(values.size), dtype=np.float32)


def prompt_diversity(
    features: Float[np.ndarray, "samples features"], prompts: Int[np.ndarray, " samples"]
) -> dict[int, float]:
    """Mean pairwise Euclidean distance among the samples of each prompt that has at least two."""
    spread: dict[int, float] = {}
    for prompt in np.unique(prompts):
        samples = np.asarray(features[prompts == prompt], dtype=np.float64)
        if len(samples) < 2:
            continue
        first, second = np.triu_indices(len(samples), k=1)
        spread[int(prompt)] = float(np.linalg.norm(samples[first] - samples[second], axis=1).mean())
    return spread


def diversity_share(spread: dict[int, float], reference: dict[int, float]) -> Estimate:
    """Diversity as a share of other clips' over the prompts both have, paired by prompt.

    Raises:
        ValueError: If no prompt has several samples on both sides.
    """
    shared = sorted(spread.keys() & reference.keys())
    if not shared:
        raise ValueError(
            "diversity: no prompt has two or more samples on both sides; make several samples of one prompt."
        )
    top = np.array([spread[p] for p in shared])
    bottom = np.array([reference[p] for p in shared])
    return bootstrap_ratio(top, bottom)
