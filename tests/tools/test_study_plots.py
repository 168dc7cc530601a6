import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.pocket.study_plots import PLOTS, Plot, draw_plot, main, shown_by

ROOT = Path(__file__).parents[2]


def test_the_plots_show_what_is_known_and_the_page_shows_the_plots() -> None:
    known = ["--results", str(ROOT / "docs/study.json"), "--folder", str(ROOT / "docs/study"), "--check"]
    assert main(known) == 0
    page = (ROOT / "docs/study.md").read_text()
    assert [name for name in PLOTS if f"(study/{name}.png)" not in page] == []


def entry(flow: float) -> dict[str, object]:
    interval = {"value": flow, "low": flow - 0.1, "high": flow + 0.1, "count": 4}
    return {"figures": {"flow": interval, "transformer_tflops": 0.1}}


def test_another_figure_makes_another_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"a-0": entry(0.5), "b-0": entry(0.7), "full-2-0": entry(0.4), "full-2-1": entry(0.6)}
    plot = Plot({"some": {"a": "the first", "full-2": "the second"}, "others": {"b": "the last"}}, ("flow",))
    figures = plot.figures(known)
    assert figures == {
        "a": {"flow": [0.5, 0.4, 0.6]},
        "full-2": {"flow": [0.5, 0.4, 0.6]},
        "b": {"flow": [0.7, 0.6, 0.8]},
    }
    pictures = []
    for flow in (0.7, 0.72):
        draw_plot(tmp_path / "plot.png", plot, known | {"b-0": entry(flow)})
        pictures.append(np.asarray(Image.open(tmp_path / "plot.png").convert("RGB")))
        shown = shown_by(tmp_path / "plot.png")
        assert shown["b"]["flow"][0] == flow
    assert (pictures[0] != pictures[1]).any()
    results = tmp_path / "study.json"
    results.write_text(json.dumps(known))
    assert main(["--results", str(ROOT / "docs/study.json"), "--folder", str(tmp_path), "--check"]) == 1
    assert "out of date. Run: python -m tools.pocket.study_plots" in capsys.readouterr().err


def test_a_row_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"c: study\.json knows no run of this row"):
        draw_plot(tmp_path / "plot.png", Plot({"some": {"c": "the third"}}, ("flow",)), {"a-0": entry(0.5)})
