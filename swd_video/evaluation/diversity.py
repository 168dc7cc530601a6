"""Diversity: how far the samples of one prompt lie apart, in features and in plain pixels."""

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from swd_video.core.interval import Estimate, bootstrap_ratio
from swd_video.evaluation.clips import check_clips

_THUMBNAIL_PX = 16
_THUMBNAIL_FRAMES = 9


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
    """Mean pairwise Euclidean distance among the samples of each prompt that has at least two.

    Args:
        features: Features of the samples.
        prompts: Number of the prompt each sample was made from.
    """
    spread: dict[int, float] = {}
    for prompt in np.unique(prompts):
        samples = np.asarray(features[prompts == prompt], dtype=np.float64)
        if len(samples) < 2:
            continue
        first, second = np.triu_indices(len(samples), k=1)
        spread[int(prompt)] = float(np.linalg.norm(samples[first] - samples[second], axis=1).mean())
    return spread


def diversity_share(
    spread: dict[int, float], reference: dict[int, float], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
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
    return bootstrap_ratio(top, bottom, resamples=resamples, seed=seed)
