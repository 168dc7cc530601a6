"""What an evaluation found, how any two of its rows compare, and how that is told in tables and JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swd_video.core.interval import Estimate
from swd_video.evaluation.clip_store import StoredClips
from swd_video.evaluation.cost import Figures
from swd_video.evaluation.difference import Difference, difference
from swd_video.evaluation.metrics.metric import Metric
from swd_video.evaluation.report import Column, markdown_table

_LEAST_SHARE = 0.1
"""A margin that is a share of the other row's figure is at least the same share of this much of the figure's scale."""


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
        reference: Key of the row whose motion and sharpness count as 1.
        about: How it was made.
        metrics: Every metric, in the order of the table.
        margins: By the metrics' margin names, differences that do not matter; metrics without one are not compared.
        floor: Distances of two halves of the reference clips.
        pairs: Keys of rows to compare, the row in question first.
        targets: What `check_targets` found.
    """

    rows: Sequence[RowResult]
    reference: str
    about: Mapping[str, Any]
    metrics: Sequence[Metric]
    margins: Mapping[str, float] = field(default_factory=dict)
    floor: Mapping[str, Estimate] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    targets: Sequence[Mapping[str, Any]] = ()

    def row(self, key: str) -> RowResult:
        """The row of this key."""
        return next(row for row in self.rows if row.key == key)

    @property
    def shown(self) -> list[Metric]:
        """The metrics that some row has a figure of."""
        return [m for m in self.metrics if any(m.key in row.figures for row in self.rows)]

    @property
    def compared(self) -> list[Metric]:
        """Those of them that rows are compared by."""
        return [m for m in self.shown if self._stated_margin(m) is not None]

    def meaning(self, metric: Metric) -> str:
        """What a metric means, in words of this evaluation."""
        keys = ("distances_to", "spread_of", "encoder", "frame_encoder")
        words = {key: str(self.about.get(key)) for key in keys}
        return metric.meaning.format(reference=self.row(self.reference).title, **words)

    def _stated_margin(self, metric: Metric) -> float | None:
        return self.margins.get(metric.margin_key or metric.key)

    def _margin(self, metric: Metric, theirs: RowResult) -> float | None:
        """The margin of a metric beside a row, in the metric's own unit."""
        stated, figure = self._stated_margin(metric), theirs.figures.get(metric.key)
        if stated is None or not metric.margin_is_share:
            return stated
        if not isinstance(figure, Estimate):
            return None
        # Near 0 a figure is no measure of itself.
        return float(stated * max(abs(figure.value), _LEAST_SHARE * figure.scale))

    def margin_in_words(self, metric: Metric) -> str:
        """The margin of a metric that rows are compared by, as tables say it."""
        stated = self._stated_margin(metric)
        return f"{stated:.0%} of the other's" if metric.margin_is_share else f"{stated:.{metric.digits}f}"

    def compare(self, ours: str, theirs: str, metric: Metric) -> Difference | None:
        """How one figure of two rows differs.

        Returns:
            None where there is no margin for it, a row lacks it, or the rows were asked for different prompts.
        """
        first, second = self.row(ours), self.row(theirs)
        figures = first.figures.get(metric.key), second.figures.get(metric.key)
        margin = self._margin(metric, second)
        if margin is None or set(first.clips.captions) != set(second.clips.captions):
            return None
        estimates = [f for f in figures if isinstance(f, Estimate) and f.draws is not None]
        repeated = [{p for p, n in Counter(row.clips.captions).items() if n > 1} for row in (first, second)]
        if len(estimates) < 2 or estimates[0].groups != estimates[1].groups:
            return None  # Diversity, for one, where a row has prompts with a single clip.
        if estimates[0].groups < len(set(first.clips.captions)) and repeated[0] != repeated[1]:
            return None  # Likewise, where both have as many of them.
        return difference(estimates[0], estimates[1], margin, metric.better)

    def as_json(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        comparisons = []
        for ours, theirs in self.pairs:
            found = {m.key: self.compare(ours, theirs, m) for m in self.compared}
            differences = {name: difference for name, difference in found.items() if difference is not None}
            comparisons.append({"row": ours, "against": theirs, "differences": differences})
        return {
            "about": dict(self.about),
            "reference": self.reference,
            "rows": {row.key: {"title": row.title, **row.figures} for row in self.rows},
            "floor": self.floor,
            "margins": dict(self.margins),
            "comparisons": comparisons,
            "targets": list(self.targets),
        }

    def table(self) -> str:
        """The figures as a Markdown table, the floor of the distances as its last row."""
        columns = [Column(m.key, m.heading, m.digits) for m in self.shown]
        rows = [(row.title, row.figures) for row in self.rows]
        if self.floor:
            rows.append((f"floor: two halves of {self.about['distances_to']}", dict(self.floor)))
        return markdown_table(columns, rows)

    def comparison_table(self) -> str:
        """A Markdown table of every pair: the difference of each figure with its interval, and what it says."""
        columns = [
            Column(m.key, f"{m.title} (margin {self.margin_in_words(m)})", m.digits) for m in self.compared
        ]
        rows = [
            (
                f"{self.row(ours).title} against {self.row(theirs).title}",
                {m.key: self.compare(ours, theirs, m) for m in self.compared},
            )
            for ours, theirs in self.pairs
        ]
        return markdown_table(columns, rows)

    def report(self) -> str:
        """Everything in Markdown, as a document may hold it: figures, how they were made, differences, targets."""
        about = self.about
        note = (
            f"{about['num_prompts']} prompts, {about['samples_per_prompt']} samples of each, {about['size']}, "
            f"{about['dtype']}; distances to {about['distances_to']} over {about['encoder']}; diversity and spread as "
            f"shares of those of {about['spread_of']}, motion and sharpness of {self.row(self.reference).title}; 95 % "
            "intervals over prompts."
        )
        if about["timed_rounds"]:
            note += (
                f" Seconds: medians of {about['timed_rounds']} runs of {about['timed_batch']} clips at once, "
                f"divided by {about['timed_batch']}, rows taking turns in one process, {about['threads']} CPU threads."
            )
        note += f" PyTorch {about['torch']}, {about['machine']}."
        words = {True: "met", False: "**not met**", None: "not measured"}
        targets = "\n".join(f"- {t['name']}: {t['found']}; {words[t['met']]}" for t in self.targets)
        return "\n\n".join(filter(None, (self.table(), note, self.comparison_table(), targets)))
