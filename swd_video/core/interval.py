"""Figures with bootstrap intervals, resampled by prompt: samples of one prompt are not independent."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

CONFIDENCE = 0.95
RESAMPLES = 2000
_NORMAL = 1.959964  # what 95 % of a normal distribution lie within, in standard deviations


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The figure computed from all samples.
        low: Lower end of the interval.
        high: Upper end of the interval.
        count: How many samples it was computed from.
        draws: The figure in each bootstrap resample. Two figures over the same groups are resampled alike, so that
            their difference has draws too; None where it was read from a file.
        groups: How many independent groups (prompts) were resampled.
        resolution: Half the width that no interval of a difference falls below; see `bootstrap_share`.
        scale: What the figure is of things that are nothing alike, where that is known; for a figure that may be 0.
    """

    value: float
    low: float
    high: float
    count: int
    draws: Float[np.ndarray, " resamples"] | None = field(default=None, compare=False, repr=False)
    groups: int = field(default=0, compare=False)
    resolution: float = field(default=0.0, compare=False)
    scale: float = field(default=0.0, compare=False)

    def scaled(self, factor: float) -> "Estimate":
        """The same figure in another unit (`factor` > 0)."""
        draws = None if self.draws is None else self.draws * factor
        value, low, high = (number * factor for number in (self.value, self.low, self.high))
        resolution, scale = self.resolution * factor, self.scale * factor
        return replace(self, value=value, low=low, high=high, draws=draws, resolution=resolution, scale=scale)

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        value, low, high = map(float, (self.value, self.low, self.high))  # a metric may count in numpy
        return {"value": value, "low": low, "high": high, "count": self.count}


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
    groups: Int[np.ndarray, " groups"] | None, samples: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "resamples samples"]:
    """How often each sample occurs in each bootstrap resample; whole groups (prompts) are drawn together."""
    index = group_indices(groups, samples)
    total = int(index.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(total, np.full(total, 1.0 / total), size=resamples)
    return drawn[:, index].astype(np.float64)


def bootstrap_mean(
    values: Float[np.ndarray, " samples"], groups: Int[np.ndarray, " groups"] | None = None
) -> Estimate:
    """Mean with an interval of 95 %; see `student_reach`."""
    values = np.asarray(values, dtype=np.float64)
    weights = bootstrap_weights(groups, len(values))
    draws = weights @ values / weights.sum(axis=1)
    return _from_draws(float(values.mean()), draws, len(values), count_groups(groups, len(values)))


def bootstrap_share(
    hits: Int[np.ndarray, " samples"], groups: Int[np.ndarray, " groups"] | None = None
) -> Estimate:
    """Share of hits with an interval of 95 %: what the percentiles of the bootstrap and `student_reach` hold together.

    Of a single group all is possible. Where every sample or none is a hit all resamples agree and the bootstrap would
    claim certainty; the open end is then the exact binomial bound `(alpha / 2) ** (1 / groups)`. The same bound says
    how rarely two rows that agree on every sample might still differ, so it is the resolution of their difference, and
    the reach where all groups have one share.
    Source: Clopper and Pearson, 1934 (zero-failure case).
    """
    estimate = bootstrap_mean(np.asarray(hits, dtype=np.float64), groups)
    assert estimate.draws is not None
    tail, bound = (1.0 - CONFIDENCE) / 2.0, float(((1.0 - CONFIDENCE) / 2.0) ** (1.0 / estimate.groups))
    low, high = map(float, np.quantile(estimate.draws, [tail, 1.0 - tail]))
    if estimate.value in (0.0, 1.0):
        low, high = (bound, 1.0) if estimate.value else (0.0, 1.0 - bound)
    else:
        # Of few groups percentiles alone are too narrow.
        reach = student_reach(estimate.draws, estimate.groups) or 1.0 - bound
        low, high = max(0.0, min(low, estimate.value - reach)), min(1.0, max(high, estimate.value + reach))
    return replace(estimate, low=low, high=high, resolution=1.0 - bound)


def bootstrap_ratio(
    numerators: Float[np.ndarray, " samples"],
    denominators: Float[np.ndarray, " denominators"],
    groups: Int[np.ndarray, " groups"] | None = None,
    *,
    resamples: int = RESAMPLES,
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
    weights = bootstrap_weights(groups, len(top), resamples=resamples)
    return _ratio(top, bottom, weights @ top, weights @ bottom, groups)


def bootstrap_ratio_unpaired(
    numerators: Float[np.ndarray, " samples"],
    denominators: Float[np.ndarray, " denominators"],
    groups: Int[np.ndarray, " groups"] | None = None,
    denominator_groups: Int[np.ndarray, " denominator_groups"] | None = None,
) -> Estimate:
    """Ratio of the means of two sets that have nothing to do with each other, each resampled on its own.

    Raises:
        ValueError: If the denominator's mean is not positive.
    """
    top, bottom = (np.asarray(v, dtype=np.float64) for v in (numerators, denominators))
    above, below = (
        weights @ values / weights.sum(axis=1)
        for values, weights in (
            (top, bootstrap_weights(groups, len(top))),
            (bottom, bootstrap_weights(denominator_groups, len(bottom), seed=1)),
        )
    )
    return _ratio(top, bottom, above, below, groups)


def bootstrap_statistic(
    statistic: Callable[[Float[np.ndarray, " samples"]], float],
    samples: int,
    groups: Int[np.ndarray, " groups"] | None = None,
    *,
    resamples: int,
) -> Estimate:
    """A weighted statistic with a normal bootstrap interval, `value +- 1.96 * bootstrap deviation`.

    For statistics that resampling biases, such as the Frechet distance (a resample has fewer distinct
    samples, hence a larger distance): the deviation is usable, the percentiles are not.

    The statistic maps sample weights, how often each sample occurs, to the figure.
    """
    weights = bootstrap_weights(groups, samples, resamples=resamples)
    draws = np.array([statistic(w) for w in weights])
    return normal_estimate(statistic(np.ones(samples)), draws, samples, count_groups(groups, samples))


def normal_estimate(
    value: float, draws: Float[np.ndarray, " resamples"], count: int, groups: int
) -> Estimate:
    """A figure with a normal interval of 95 % from its draws, infinite where these say nothing, and of one group."""
    # Not defined where all draws fall on one prompt, as they may with two: what is left are draws of both, all alike.
    known = draws[np.isfinite(draws)]
    if len(known) < len(draws) and len(np.unique(known)) < 2:
        draws = np.full_like(draws, np.nan)
    tells = groups > 1 and np.isfinite(draws).sum() > 1
    reach = _NORMAL * float(np.nanstd(draws, ddof=1)) if tells else math.inf
    return Estimate(value, value - reach, value + reach, count, draws=draws, groups=groups)


def student_reach(draws: Float[np.ndarray, " resamples"], groups: int) -> float:
    """Half an interval of 95 %: Student's t for so many groups times the deviation of the draws; infinite of one.

    Good for few groups too, whose percentiles make intervals too narrow.
    """
    if groups < 2 or np.isfinite(draws).sum() < 2:
        return math.inf
    # The bootstrap divides by the number of groups where a variance needs one less.
    deviation = float(np.nanstd(draws, ddof=1)) * math.sqrt(groups / (groups - 1))
    return _student(groups - 1) * deviation


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 1 % from 3 degrees of freedom on.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    exact = {1: 12.706, 2: 4.303}
    if freedom in exact:
        return exact[freedom]
    z = _NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _from_draws(value: float, draws: np.ndarray, count: int, groups: int) -> Estimate:
    reach = student_reach(draws, groups)
    return Estimate(value, value - reach, value + reach, count, draws=draws, groups=groups)


def _ratio(
    top: np.ndarray, bottom: np.ndarray, above: np.ndarray, below: np.ndarray, groups: np.ndarray | None
) -> Estimate:
    """Of the means of `top` and `bottom`, which in the resamples are in proportion as `above` to `below`."""
    if bottom.mean() <= 0:
        raise ValueError(
            f"ratio to a mean of {bottom.mean():.3g}: expected a positive one; check the reference clips."
        )
    draws = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return _from_draws(float(top.mean() / bottom.mean()), draws, len(top), count_groups(groups, len(top)))


def count_groups(groups: Int[np.ndarray, " samples"] | None, samples: int) -> int:
    """How many groups there are; every sample is its own when `groups` is None."""
    return int(group_indices(groups, samples).max()) + 1
