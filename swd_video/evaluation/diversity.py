"""Diversity: how far the samples of one prompt lie apart."""

import numpy as np
from jaxtyping import Float, Int

from swd_video.evaluation.interval import Estimate, bootstrap_ratio


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
    """Diversity as a share of another sampler's (the teacher's) over the prompts both have, paired by prompt.

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
