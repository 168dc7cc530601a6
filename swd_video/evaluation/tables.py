"""The figures of an evaluation as Markdown and as JSON."""

from dataclasses import replace
from typing import Any

from swd_video.evaluation.difference import Difference
from swd_video.evaluation.report import markdown_table
from swd_video.evaluation.results import Results


def results_table(results: Results) -> str:
    """The figures as a Markdown table, the floor of the distances as its last row."""
    rows = [(row.title, row.figures) for row in results.rows]
    if results.floor:
        rows.append((f"floor: two halves of {results.about['distances_to']}", dict(results.floor)))
    return markdown_table(results.columns, rows)


def comparison_table(results: Results) -> str:
    """A Markdown table of every pair: the difference of each figure with its interval, and what it says."""
    columns = [
        replace(
            column, title=f"{column.title} (margin {results.margin(column):.{column.digits}f})", better=None
        )
        for column in results.compared
    ]
    rows = [
        (
            f"{results.row(ours).title} against {results.row(theirs).title}",
            {
                column.key: format_difference(results.compare(ours, theirs, column), column.digits)
                for column in results.compared
            },
        )
        for ours, theirs in results.pairs
    ]
    return markdown_table(columns, rows)


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
                column.key: found
                for column in results.compared
                if (found := results.compare(ours, theirs, column)) is not None
            },
        }
        for ours, theirs in results.pairs
    ]
    margins = {metric.key: metric.margin for metric in results.metrics if metric.margin is not None}
    return {
        "about": dict(results.about),
        "reference": results.reference,
        "rows": {row.key: {"title": row.title, **row.figures} for row in results.rows},
        "floor": results.floor,
        "margins": margins | dict(results.margins),
        "comparisons": comparisons,
    }
