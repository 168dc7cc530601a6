"""What an evaluation found, and how any two of its rows compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swd_video.core.interval import Estimate
from swd_video.evaluation.clip_store import StoredClips
from swd_video.evaluation.cost import Figures
from swd_video.evaluation.difference import Difference, Direction, difference


@dataclass(frozen=True)
class RowResult:
    """One row's figures and clips."""

    key: str
    title: str
    figures: Figures
    clips: StoredClips


@dataclass(frozen=True)
class Results:
    """What an evaluation found.

    Attributes:
        rows: Key, title, figures and clips of every row.
        reference: Key of the row whose motion and sharpness count as 1.
        about: How it was made.
        floor: Distances of two halves of the reference clips.
        margins: By figure, differences that do not matter; figures without one are not compared. Those of the
            distances are shares of the reference row's.
        pairs: Keys of rows to compare, the row in question first.
    """

    rows: Sequence[RowResult]
    reference: str
    about: Mapping[str, Any]
    floor: Mapping[str, Estimate] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()

    def row(self, key: str) -> RowResult:
        """The row of this key."""
        return next(row for row in self.rows if row.key == key)

    def compare(self, ours: str, theirs: str, name: str, better: Direction) -> Difference | None:
        """How one figure of two rows differs.

        Returns:
            None where there is no margin for it, a row lacks it, or the rows were asked for different prompts.
        """
        first, second = self.row(ours), self.row(theirs)
        ours_figure, theirs_figure = first.figures.get(name), second.figures.get(name)
        margin = self.margin(name)
        if margin is None or set(first.clips.captions) != set(second.clips.captions):
            return None
        if not isinstance(ours_figure, Estimate) or not isinstance(theirs_figure, Estimate):
            return None
        if ours_figure.draws is None or theirs_figure.draws is None:
            return None
        return difference(ours_figure, theirs_figure, margin, better)

    def margin(self, name: str) -> float | None:
        """The margin of a figure, in its own unit."""
        share = self.margins.get("adherence" if name.startswith("adherence_") else name)
        if share is None or name != "kernel":
            return share
        figure = self.row(self.reference).figures.get(name)
        return float(share * abs(figure.value)) if isinstance(figure, Estimate) else None
