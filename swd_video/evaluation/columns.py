"""What the figures of an evaluation are called, which way they are better, and what they mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from swd_video.evaluation.difference import Difference, Direction
from swd_video.evaluation.report import Column, markdown_table
from swd_video.evaluation.results import Results

_ADHERENCE = "adherence_"


@dataclass(frozen=True)
class Metric(Column):
    """A column, and how to read it.

    Attributes:
        better: Which way is better; "reference" means near 1, what it is a share of.
        meaning: One or two sentences for somebody who sees it for the first time.
    """

    better: Direction = "higher"
    meaning: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow that says which way is better."""
        return f"{self.title} {({'higher': '↑', 'lower': '↓', 'reference': '→ 1'})[self.better]}"


_METRICS = (
    Metric(
        "kernel",
        "kernel distance",
        2,
        better="lower",
        meaning="How far the clips as a whole lie from {distances_to} in what {encoder} sees (KID's kernel). Without "
        "bias by the number of clips: of two sets of one kind it is 0 on average, and below 0 as often as above.",
    ),
    Metric(
        "frechet",
        "Frechet distance",
        1,
        better="lower",
        meaning="The same question asked of mean and covariance. It is biased by the number of clips, which its floor "
        "shows, and can rank rows wrongly, so that rows are not compared by it.",
    ),
    Metric(
        "diversity",
        "diversity, share",
        better="reference",
        meaning="How much the samples of one prompt differ in what {encoder} sees, as a share of {spread_of}. "
        "Artefacts that come and go count too, so more than 1 is no merit.",
    ),
    Metric(
        "spread",
        "spread of pixels, share",
        better="reference",
        meaning="How much the samples of one prompt differ in plain pixels, reduced to 16 along the shorter side, as a "
        "share of {spread_of}. Below 1, the model makes more of the same.",
    ),
    Metric(
        "flow",
        "motion, share",
        better="reference",
        meaning="Mean length of the optical flow, as a share of {reference}'s. Below 1, things move more slowly.",
    ),
    Metric(
        "sharpness",
        "sharpness, share",
        better="reference",
        meaning="Deviation of the Laplacian of the frames, as a share of {reference}'s. Below 1, pictures are softer.",
    ),
    Metric(
        "flicker",
        "steadiness",
        3,
        better="higher",
        meaning="1 minus the mean change of a pixel from frame to frame (VBench's temporal flickering). It falls with "
        "motion too: read it beside the motion.",
    ),
    Metric(
        "consistency",
        "subject consistency",
        3,
        better="higher",
        meaning="How similar each frame is to the one before and to the first (VBench's formula, features of "
        "{frame_encoder}). It falls with motion too.",
    ),
    Metric(
        "transformer_seconds",
        "transformer, s a clip",
        3,
        better="lower",
        meaning="Seconds inside the transformer and on the way from grid to grid, a clip's share of a batch. Median; "
        "rows took turns in one process.",
    ),
    Metric("total_seconds", "all, s a clip", 3, better="lower", meaning="Seconds of the whole call."),
    Metric(
        "transformer_tflops",
        "transformer, TFLOPs a clip",
        4,
        better="lower",
        meaning="Operations of the transformer and of the way from grid to grid in 10^12, counted while they ran; a "
        "multiplication and an addition count as two.",
    ),
)


def metrics_of(results: Results) -> list[Metric]:
    """The metrics that some row has, in the order of the table."""
    there = {name for row in results.rows for name in row.figures}
    adherence = sorted(name for name in there if name.startswith(_ADHERENCE))
    keys = ("distances_to", "spread_of", "encoder", "frame_encoder")
    words = {key: str(results.about.get(key)) for key in keys}
    words["reference"] = results.row(results.reference).title
    read = [
        Metric(
            name,
            f"{name.removeprefix(_ADHERENCE)} right",
            better="higher",
            meaning="Share of clips in which a judge, trained on real clips alone, reads the "
            f"{name.removeprefix(_ADHERENCE)} that the prompt asked for.",
        )
        for name in adherence
    ]
    return [
        replace(metric, meaning=metric.meaning.format(**words))
        for metric in (*read, *_METRICS)
        if metric.key in there
    ]


def results_table(results: Results, metrics: Sequence[Metric] | None = None) -> str:
    """The figures as a Markdown table, the floor of the distances as its last row."""
    columns = [Column(m.key, m.heading, m.digits, m.interval) for m in metrics or metrics_of(results)]
    rows = [(row.title, row.figures) for row in results.rows]
    if results.floor:
        rows.append((f"floor: two halves of {results.about['distances_to']}", dict(results.floor)))
    return markdown_table(columns, rows)


def comparison_table(results: Results) -> str:
    """A Markdown table of every pair: the difference of each figure with its interval, and what it says."""
    metrics = compared_metrics(results)
    columns = [Column(m.key, f"{m.title} (margin {results.margin(m.key):.{m.digits}f})") for m in metrics]
    rows = [
        (
            f"{results.row(ours).title} against {results.row(theirs).title}",
            {
                m.key: format_difference(results.compare(ours, theirs, m.key, m.better), m.digits)
                for m in metrics
            },
        )
        for ours, theirs in results.pairs
    ]
    return markdown_table(columns, rows)


def compared_metrics(results: Results) -> list[Metric]:
    """The metrics that have a margin."""
    return [metric for metric in metrics_of(results) if results.margin(metric.key) is not None]


def format_difference(found: Difference | None, digits: int) -> str:
    """`+0.03 [0.01, 0.05] better`, or a dash where rows cannot be compared."""
    if found is None:
        return "–"
    return f"{found.value:+.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}] {found.verdict}"


def as_json(results: Results) -> dict[str, Any]:
    """What `evaluation.json` holds."""
    comparisons = [
        {
            "row": ours,
            "against": theirs,
            "differences": {
                m.key: found
                for m in compared_metrics(results)
                if (found := results.compare(ours, theirs, m.key, m.better)) is not None
            },
        }
        for ours, theirs in results.pairs
    ]
    return {
        "about": dict(results.about),
        "reference": results.reference,
        "rows": {row.key: {"title": row.title, **row.figures} for row in results.rows},
        "floor": results.floor,
        "margins": dict(results.margins),
        "comparisons": comparisons,
    }
