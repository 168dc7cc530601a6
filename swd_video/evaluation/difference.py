"""Differences between rows that share prompts and noise, and what may be said of them.

A row's own interval is wide because prompts differ: most of that is common to all rows and cancels in a difference.
So rows are compared by the interval of the difference, never by whether their own intervals overlap.
"""

from dataclasses import dataclass
from typing import Literal

from swd_video.core.interval import Estimate, student_reach

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
    """The paired difference of one figure of two rows; its interval is that of the resampled differences.

    See `student_reach`: good for biased statistics as well, whose percentiles are not, and for few prompts.
    """
    assert ours.draws is not None and theirs.draws is not None and ours.groups == theirs.groups
    value = float(ours.value - theirs.value)
    reach = max(student_reach(ours.draws - theirs.draws, ours.groups), ours.resolution, theirs.resolution)
    return Difference(value, value - reach, value + reach, margin, better)
