"""Tables of estimates: Markdown with intervals, JSON with everything, and a marked place in a document."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swd_video.core.interval import Estimate
from swd_video.evaluation.difference import Difference
from swd_video.files import plain_json, write_json, write_text

Cell = Estimate | Difference | float | str | None


@dataclass(frozen=True)
class Column:
    """A column of a report: the figure `key` with so many digits after the point, with its interval or without."""

    key: str
    title: str
    digits: int = 2
    interval: bool = True


def format_figure(figure: Cell, digits: int, *, interval: bool = True) -> str:
    """One cell: `0.95 [0.92, 0.97]`, a plain number, the text itself, or an en dash where there is none.

    Of a difference, `+0.03 [0.01, 0.05] better`.
    """
    if figure is None:
        return "–"
    if isinstance(figure, str):
        return figure
    if isinstance(figure, Difference):
        ends = f"[{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
        return f"{figure.value:+.{digits}f} {ends} {figure.verdict}"
    if isinstance(figure, Estimate):
        text = f"{figure.value:.{digits}f}"
        return f"{text} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]" if interval else text
    return f"{figure:.{digits}f}" if math.isfinite(figure) else "–"


def markdown_table(columns: Sequence[Column], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A Markdown table with one row for each `(title, cells by key)`; missing figures become dashes."""
    lines = [
        "| | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for title, figures in rows:
        cells = [format_figure(figures.get(c.key), c.digits, interval=c.interval) for c in columns]
        name = " ".join(title.split()).replace("|", "\\|")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_figures(path: Path, data: object) -> None:
    """Write JSON whole, and folders for it; estimates and differences become objects, NaN null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain_json(data))


def replace_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a document.

    Raises:
        ValueError: If the file or a marker is missing, doubled or out of order.
    """
    before, after = check_markers(path, name)
    write_text(path, f"{before}\n{text.strip()}\n{after}")


def check_markers(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after a marked place of a document; may be asked before hours are spent on filling it.

    Raises:
        ValueError: If the file or a marker is missing, doubled or out of order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; make it, with the lines {begin!r} and {end!r} where the table goes."
        )
    document = path.read_text(encoding="utf-8")
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(
            f"{path}: expected {begin!r} and later {end!r}, once each; put them where the table goes."
        )
    before, rest = document.split(begin)
    return before + begin, end + rest.split(end)[1]
