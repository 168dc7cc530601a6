"""Figures with bootstrap intervals, resampled by prompt: samples of one prompt are not independent."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The figure computed from all samples.
        low: Lower end of the interval.
        high: Upper end of the interval.
        count: How many samples it was computed from.
    """

    value: float
    low: float
    high: float
    count: int

    def overlaps(self, other: "Estimate") -> bool:
        """Whether the two intervals share a point, in which case the figures are called equal."""
        return self.low <= other.high and other.low <= self.high

    def scaled(self, factor: float) -> "Estimate":
        """The same figure in another unit (`factor` > 0)."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.count)

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


def group_indices(groups: Int[np.ndarray, " groups"] | None, samples: int) -> Int[np.ndarray, " samples"]:
    """Group number 0..G-1 of every sample; every sample is its own group when `groups` is None.

    Raises:
        ValueError: If there are no samples, or not one group for each.
    """
    if samples == 0:
        raise ValueError("no samples to estimate from: got 0, expected at least 1. Score some clips first.")
    if groups is None:
        return np.arange(samples)
    if len(groups) != samples:
        raise ValueError(f"groups: got {len(groups)} for {samples} samples; give one group for each sample.")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def bootstrap_weights(
    groups: Int[np.ndarray, " groups"] | None, samples: int, *, resamples: int, seed: int
) -> Float[np.ndarray, "resamples samples"]:
    """How often each sample occurs in each bootstrap resample; whole groups (prompts) are drawn together.

    Args:
        groups: Group of every sample, or None when samples are independent.
        samples: Number of samples.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws.
    """
    index = group_indices(groups, samples)
    total = int(index.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(total, np.full(total, 1.0 / total), size=resamples)
    return drawn[:, index].astype(np.float64)


def bootstrap_mean(
    values: Float[np.ndarray, " samples"],
    groups: Int[np.ndarray, " groups"] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean with a percentile bootstrap interval of 95 %."""
    values = np.asarray(values, dtype=np.float64)
    weights = bootstrap_weights(groups, len(values), resamples=resamples, seed=seed)
    low, high = _percentiles(weights @ values / weights.sum(axis=1))
    return Estimate(float(values.mean()), low, high, len(values))


def bootstrap_share(
    hits: Int[np.ndarray, " samples"],
    groups: Int[np.ndarray, " groups"] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Share of hits with a bootstrap interval.

    Where every sample or none is a hit all resamples agree and the bootstrap would claim certainty; the
    open end is then the exact binomial bound `(alpha / 2) ** (1 / groups)`.
    Source: Clopper and Pearson, 1934 (zero-failure case).
    """
    estimate = bootstrap_mean(np.asarray(hits, dtype=np.float64), groups, resamples=resamples, seed=seed)
    independent = int(group_indices(groups, len(hits)).max()) + 1
    bound = float(((1.0 - CONFIDENCE) / 2.0) ** (1.0 / independent))
    if estimate.value == 1.0:
        return Estimate(1.0, bound, 1.0, estimate.count)
    if estimate.value == 0.0:
        return Estimate(0.0, 0.0, 1.0 - bound, estimate.count)
    return estimate


def bootstrap_ratio(
    numerators: Float[np.ndarray, " samples"],
    denominators: Float[np.ndarray, " denominators"],
    groups: Int[np.ndarray, " groups"] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Ratio of two means over the same prompts, both sides resampled together, with its interval.

    Raises:
        ValueError: If the two sides differ in length or the denominator's mean is not positive.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    if len(top) != len(bottom):
        raise ValueError(
            f"ratio of {len(top)} values to {len(bottom)}: pair them, one value each for every prompt."
        )
    weights = bootstrap_weights(groups, len(top), resamples=resamples, seed=seed)
    if bottom.mean() <= 0:
        raise ValueError(
            f"ratio to a mean of {bottom.mean():.3g}: expected a positive one; check the reference clips."
        )
    below = weights @ bottom
    usable = below > 0
    low, high = _percentiles((weights @ top)[usable] / below[usable])
    return Estimate(float(top.mean() / bottom.mean()), low, high, len(top))


def bootstrap_ratio_unpaired(
    numerators: Float[np.ndarray, " samples"],
    denominators: Float[np.ndarray, " denominators"],
    groups: Int[np.ndarray, " groups"] | None = None,
    denominator_groups: Int[np.ndarray, " denominator_groups"] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Ratio of the means of two sets that have nothing to do with each other, each resampled on its own.

    Raises:
        ValueError: If the denominator's mean is not positive.
    """
    top, bottom = (np.asarray(v, dtype=np.float64) for v in (numerators, denominators))
    if bottom.mean() <= 0:
        raise ValueError(
            f"ratio to a mean of {bottom.mean():.3g}: expected a positive one; check the reference clips."
        )
    above, below = (
        weights @ values / weights.sum(axis=1)
        for values, weights in (
            (top, bootstrap_weights(groups, len(top), resamples=resamples, seed=seed)),
            (bottom, bootstrap_weights(denominator_groups, len(bottom), resamples=resamples, seed=seed + 1)),
        )
    )
    usable = below > 0
    low, high = _percentiles(above[usable] / below[usable])
    return Estimate(float(top.mean() / bottom.mean()), low, high, len(top))


def bootstrap_statistic(
    statistic: Callable[[Float[np.ndarray, " samples"]], float],
    samples: int,
    groups: Int[np.ndarray, " groups"] | None = None,
    *,
    resamples: int = 100,
    seed: int = 0,
) -> Estimate:
    """A weighted statistic with a normal bootstrap interval, `value +- 1.96 * bootstrap deviation`.

    For statistics that resampling biases, such as the Frechet distance (a resample has fewer distinct
    samples, hence a larger distance): the deviation is usable, the percentiles are not.

    Args:
        statistic: Maps sample weights (how often each sample occurs) to the figure.
        samples: Number of samples.
        groups: Prompt of every sample; whole prompts are resampled.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws.
    """
    value = statistic(np.ones(samples))
    draws = [statistic(w) for w in bootstrap_weights(groups, samples, resamples=resamples, seed=seed)]
    reach = 1.959964 * float(np.std(draws, ddof=1)) if len(draws) > 1 else math.inf
    return Estimate(value, value - reach, value + reach, samples)


def _percentiles(draws: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return float(low), float(high)
