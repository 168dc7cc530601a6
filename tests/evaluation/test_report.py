import json
import math
from pathlib import Path

import pytest

from swd_video.core.interval import Estimate
from swd_video.evaluation.report import (
    Column,
    check_markers,
    format_figure,
    markdown_table,
    replace_between_markers,
    write_figures,
)


def test_table_prints_intervals_and_dashes() -> None:
    columns = [
        Column("subject", "Subject"),
        Column("seconds", "Seconds", 1, interval=False),
        Column("tflops", "TFLOPs", 3),
    ]
    rows = [
        (
            "teacher",
            {
                "subject": Estimate(0.954, 0.92, 0.98, 256),
                "seconds": Estimate(4.06, 4.0, 4.2, 5),
                "tflops": 0.1234,
            },
        ),
        ("real clips", {"subject": Estimate(1.0, 0.99, 1.0, 256), "tflops": math.nan}),
    ]
    assert markdown_table(columns, rows).splitlines() == [
        "| | Subject | Seconds | TFLOPs |",
        "|---|---|---|---|",
        "| teacher | 0.95 [0.92, 0.98] | 4.1 | 0.123 |",
        "| real clips | 1.00 [0.99, 1.00] | – | – |",
    ]
    assert format_figure("n/a", 2) == "n/a"


def test_json_holds_everything_and_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    write_figures(path, {"a": Estimate(1.0, 0.5, math.inf, 3), "b": [1, (2.5, None)], 3: "x"})
    assert json.loads(path.read_text()) == {
        "a": {"value": 1.0, "low": 0.5, "high": None, "count": 3},
        "b": [1, [2.5, None]],
        "3": "x",
    }
    assert [p.name for p in path.parent.iterdir()] == ["table.json"]


def test_only_the_marked_place_changes(tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    document.write_text("before\n<!-- first: begin -->\nold\n<!-- first: end -->\nafter\n")
    for text in ("new | table\n", "newer"):
        replace_between_markers(document, "first", text)
        expected = f"before\n<!-- first: begin -->\n{text.strip()}\n<!-- first: end -->\nafter\n"
        assert document.read_text() == expected


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- t: begin -->",
        "<!-- t: end -->\n<!-- t: begin -->",
        "<!-- t: begin --><!-- t: end -->" * 2,
    ],
)
def test_missing_or_odd_markers_are_named(tmp_path: Path, text: str) -> None:
    document = tmp_path / "doc.md"
    document.write_text(text)
    with pytest.raises(ValueError, match=r"doc\.md: expected '<!-- t: begin -->'"):
        check_markers(document, "t")
    with pytest.raises(ValueError, match="no such file"):
        check_markers(tmp_path / "none.md", "t")
    assert document.read_text() == text
