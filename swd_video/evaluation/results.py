"""What an evaluation found, and how any two of its rows compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from swd_video.core.interval import Estimate
from swd_video.evaluation.clip_store import StoredClips
from swd_video.evaluation.cost import Figures
from swd_video.evaluation.difference import Difference, difference
from swd_video.evaluation.metrics import METRICS
from swd_video.evaluation.metrics.metric import Metric
from swd_video.evaluation.report import Column


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
        margins: By a metric's key, differences that do not matter, in place of the metric's own.
        pairs: Keys of rows to compare, the row in question first.
        metrics: In the order of the table.
    """

    rows: Sequence[RowResult]
    reference: str
    about: Mapping[str, Any]
    floor: Mapping[str, Estimate] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    metrics: Sequence[Metric] = METRICS

    @cached_property
    def columns(self) -> list[Column]:
        """What tables show: the metrics that some row has figures of."""
        keys = {key for row in self.rows for key in row.figures}
        words = {
            key: str(self.about.get(key)) for key in ("distances_to", "spread_of", "encoder", "frame_encoder")
        }
        words["reference"] = self.row(self.reference).title
        return [
            replace(
                column,
                meaning=column.meaning.format(**words),
                margin=self.margins.get(metric.key, column.margin),
            )
            for metric in self.metrics
            for column in metric.columns(keys)
        ]

    @property
    def compared(self) -> list[Column]:
        """The columns that have a margin."""
        return [column for column in self.columns if self.margin(column) is not None]

    def row(self, key: str) -> RowResult:
        """The row of this key."""
        return next(row for row in self.rows if row.key == key)

    def compare(self, ours: str, theirs: str, column: Column) -> Difference | None:
        """How one figure of two rows differs.

        Returns:
            None where there is no margin for it, a row lacks it, or the rows were asked for different prompts.
        """
        first, second = self.row(ours), self.row(theirs)
        ours_figure, theirs_figure = first.figures.get(column.key), second.figures.get(column.key)
        margin = self.margin(column)
        if margin is None or set(first.clips.captions) != set(second.clips.captions):
            return None
        if not isinstance(ours_figure, Estimate) or not isinstance(theirs_figure, Estimate):
            return None
        if ours_figure.draws is None or theirs_figure.draws is None:
            return None
        if ours_figure.groups != theirs_figure.groups:
            return None  # diversity, where one row has prompts with a single clip
        assert column.better is not None
        return difference(ours_figure, theirs_figure, margin, column.better)

    def margin(self, column: Column) -> float | None:
        """The margin of a column, in its own unit."""
        if column.margin is None or not column.margin_is_share:
            return column.margin
        figure = self.row(self.reference).figures.get(column.key)
        return float(column.margin * abs(figure.value)) if isinstance(figure, Estimate) else None
