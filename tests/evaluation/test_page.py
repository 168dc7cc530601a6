import base64
import math
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swd_video.core.interval import Estimate, bootstrap_mean
from swd_video.data.video import read_video
from swd_video.evaluation.clip_store import StoredClips, store_arrays
from swd_video.evaluation.config import PageConfig
from swd_video.evaluation.metrics import all_metrics
from swd_video.evaluation.page import choose_shown, clip_address, plot_metric, ticks_between, write_page
from swd_video.evaluation.results import Results, RowResult


def row(key: str, captions: tuple[str, ...], frechet: Estimate | None, folder: Path) -> RowResult:
    frames = np.random.default_rng(0).integers(0, 256, size=(len(captions), 4, 40, 30, 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    store_arrays(folder / f"{key}.npz", {"frames": frames})
    flow = bootstrap_mean(np.arange(4.0) + len(key) + (key == "b") * np.array([0.1, 0.1, 0.12, 0.1]))
    figures = {"flow": flow} | ({} if frechet is None else {"frechet": frechet})
    clips = StoredClips(folder, (folder / f"{key}.npz",), len(captions), captions, 8.0)
    return RowResult(key, f"row {key}", figures, clips)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    captions = tuple(f"prompt {n}" for n in range(6))
    rows = [
        row("a", captions, Estimate(10.0, 8.0, 12.0, 4), tmp_path / "clips"),
        row("b", captions[:1], Estimate(20.0, 19.0, 28.0, 4), tmp_path / "clips"),
        row("c", captions, None, tmp_path / "clips"),
    ]
    about = {
        "title": "<b>Title</b>",
        "num_prompts": 6,
        "samples_per_prompt": 1,
        "size": "4x40x30",
        "unrecorded": [],
        "distances_to": "real clips",
        "spread_of": "real clips",
        "encoder": "net",
        "frame_encoder": "net",
    }
    pairs = [("b", "a"), ("c", "a")]
    floor = {"frechet": Estimate(3.0, 2.0, 4.0, 4)}
    return Results(rows, "a", about, all_metrics(), {"flow": 0.05, "kernel": 0.1}, floor, pairs)


def test_a_plot_places_figures_in_proportion(results: Results) -> None:
    frechet = next(metric for metric in results.shown if metric.key == "frechet")
    plot = plot_metric(frechet, results)
    a, b, c = plot["marks"]
    assert c["at"] is None and c["text"] == "–"
    assert a["low"] < a["at"] < a["high"] < b["low"] < b["at"] < b["high"]
    ticks = {text: at for at, text in plot["ticks"]}
    assert ticks["10"] == pytest.approx(a["at"]) and ticks["20"] == pytest.approx(b["at"])
    assert a["is_reference"] and not b["is_reference"]
    results.rows[0].figures["frechet"] = Estimate(10.0, -math.inf, math.inf, 2)  # type: ignore[index]
    a, b, _ = plot_metric(frechet, results)["marks"]
    assert (a["low"], a["high"]) == (0.0, 1.0) and 0 < a["at"] < b["at"] < 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-6720.4, 57526.2), (0.98, 0.995), (1.0, 1.2e-3 + 1)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = ticks_between(low, high)
    assert 1 <= len(ticks) <= 6 and low <= min(ticks) and max(ticks) <= high
    assert len({f"{tick:.10g}" for tick in ticks}) == len(ticks)


def test_a_margin_that_is_a_share_of_next_to_nothing_is_one_of_the_scale(results: Results) -> None:
    metric = next(metric for metric in results.metrics if metric.key == "kernel")
    noise = np.random.default_rng(0)
    for row, value in zip(results.rows, (0.001, 60.0, -0.002), strict=True):
        draws = noise.normal(value, 0.05, size=50)
        row.figures["kernel"] = Estimate(value, value, value, 6, draws=draws, groups=6, scale=50.0)  # type: ignore[index]
    ours, theirs = (results.compare(*keys, metric) for keys in (("a", "c"), ("c", "b")))
    assert ours is not None and ours.margin == pytest.approx(0.1 * 0.1 * 50.0) and ours.verdict == "equal"
    assert theirs is None  # other prompts


def test_figures_over_different_prompts_are_not_compared(results: Results) -> None:
    flow = next(metric for metric in results.shown if metric.key == "flow")
    assert results.compare("c", "a", flow) is not None
    fewer = replace(results.rows[2], figures={"flow": bootstrap_mean(np.arange(3.0))})
    assert replace(results, rows=[*results.rows[:2], fewer]).compare("c", "a", flow) is None


def test_clips_are_inside_the_page_and_missing_ones_are_said(results: Results, tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", results, PageConfig(prompts=3, max_height_px=20))
    page = (tmp_path / "index.html").read_text()
    assert choose_shown(results, 3) == ["prompt 0", "prompt 2", "prompt 5"]
    assert page.count("<video") == 3 + 1 + 3 and page.count("no such clip") == 2
    assert "&lt;b&gt;Title" in page and "<b>Title" not in page
    content = page.split("data:video/mp4;base64,")[1].split('"')[0]
    path = tmp_path / "clip.mp4"
    path.write_bytes(base64.b64decode(content))
    frames, fps = read_video(path)
    assert frames.shape == (4, 20, 16, 3) and fps == 8.0


def test_differences_stand_beside_the_figures_with_what_they_say(results: Results, tmp_path: Path) -> None:
    same_prompts = [replace(row, clips=results.rows[0].clips) for row in results.rows]
    for rows, verdicts in ((same_prompts, ["better", "equal"]), (results.rows, ["", "equal"])):
        results = replace(results, rows=rows)
        write_page(tmp_path / "index.html", results, PageConfig(prompts=0, max_height_px=20))
        page = (tmp_path / "index.html").read_text()
        assert page.count("Against row a") == 1 and "margin 0.05" in page
        table = page.split("Against row a")[1].split("</table>")[0]
        assert re.findall(r"<em[^>]*>([^<]*)</em>", table) == [
            "more" if v == "better" else v for v in verdicts
        ]
        assert "floor: two halves of real clips" in page and "3.0<small>[2.0, 4.0]" in page
    found = results.as_json()["comparisons"]
    assert found[0]["differences"] == {} and found[1]["differences"]["flow"].verdict == "equal"
    lines = results.comparison_table().splitlines()
    assert lines[0] == "| | motion, share (margin 0.05) |" and lines[2] == "| row b against row a | – |"
    assert lines[3] == "| row c against row a | +0.00 [0.00, 0.00] equal |"


def test_odd_sizes_become_pictures() -> None:
    frames = np.zeros((3, 21, 30, 3), dtype=np.uint8)
    address, is_picture = clip_address(frames, 8.0)
    assert is_picture and address.startswith("data:image/webp;base64,")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.webp"
        path.write_bytes(base64.b64decode(address.partition(",")[2]))
        assert read_video(path)[0].shape[1:] == (21, 30, 3)
