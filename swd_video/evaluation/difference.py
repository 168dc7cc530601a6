"""Differences between rows that share prompts and noise, and what may be said of them.

A row's own interval is wide because prompts differ: most of that is common to all rows and cancels in a difference.
So rows are compared by the interval of the difference, never by whether their own intervals overlap.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from swd_video.core.interval import NORMAL, Estimate

Direction = Literal["higher", "lower", "reference"]
"""Which way a figure is better; "reference" means that more is no merit, only nearer to the reference."""

_WORDS = {"higher": ("better", "worse"), "lower": ("worse", "better"), "reference": ("more", "less")}


@dataclass(frozen=True)
class Difference:
    """One row's figure minus another's over the same prompts, with the interval of 95 % of that difference.

    Each verdict is a statement about the true difference and needs the whole interval. More clips narrow the interval
    and so can only add statements; none is ever made because there were few.

    Attributes:
        margin: Differences smaller than this do not matter; stated before anything is measured.
        better: Which way is better.
    """

    value: float
    low: float
    high: float
    margin: float
    better: Direction

    @property
    def verdict(self) -> str:
        """What the interval allows to say.

        "equal" inside the margin; "better" or "worse" beside 0 ("more" or "less" of what has no better), "slightly" so
        if inside the margin as well; else "not told apart".
        """
        inside = -self.margin < self.low and self.high < self.margin
        if self.low <= 0 <= self.high:
            return "equal" if inside else "not told apart"
        word = _WORDS[self.better][0 if self.low > 0 else 1]
        return f"slightly {word}" if inside else word

    @property
    def is_ahead(self) -> bool:
        """Whether it is better, or more, by however little."""
        return self.high < 0 if self.better == "lower" else self.low > 0

    @property
    def is_no_worse(self) -> bool:
        """Whether it is worse, or less, by no more than the margin."""
        return self.high < self.margin if self.better == "lower" else self.low > -self.margin

    def as_dict(self) -> dict[str, float | str]:
        """For JSON."""
        numbers = {"value": self.value, "low": self.low, "high": self.high, "margin": self.margin}
        return {**numbers, "verdict": self.verdict}


def difference(ours: Estimate, theirs: Estimate, margin: float, better: Direction) -> Difference:
    """The paired difference of one figure of two rows.

    The interval is `value +- t * deviation` of the resampled differences, t being Student's for so many prompts: good
    for biased statistics as well, whose percentiles are not, and for few prompts.
    """
    assert ours.draws is not None and theirs.draws is not None and ours.groups == theirs.groups
    value = float(ours.value - theirs.value)
    draws = ours.draws - theirs.draws
    groups = ours.groups
    if groups < 2 or np.isfinite(draws).sum() < 2:
        return Difference(value, -math.inf, math.inf, margin, better)
    # The bootstrap divides by the number of prompts where a variance needs one less.
    deviation = float(np.nanstd(draws, ddof=1)) * math.sqrt(groups / (groups - 1))
    reach = float(max(_student(groups - 1) * deviation, ours.resolution, theirs.resolution))
    return Difference(value, value - reach, value + reach, margin, better)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 1 % from 3 degrees of freedom on.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    exact = {1: 12.706, 2: 4.303}
    if freedom in exact:
        return exact[freedom]
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
