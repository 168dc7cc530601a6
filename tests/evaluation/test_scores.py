import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from swd_video.core.interval import Estimate, bootstrap_ratio, bootstrap_ratio_unpaired
from swd_video.evaluation.clip_features import load_frame_features
from swd_video.evaluation.clip_store import StoredClips, store_arrays
from swd_video.evaluation.judges import Judges
from swd_video.evaluation.metrics import all_metrics
from swd_video.evaluation.metrics.metric import Beside, Scores
from swd_video.evaluation.scores import distance_floor, row_figures, score_clips


def scores(captions: tuple[str, ...], flow: list[float], spread: float) -> Scores:
    rng = np.random.default_rng(0)
    features = spread * rng.normal(size=(len(captions), 6))
    ones = np.ones(len(captions))
    lengths = np.array(flow, dtype=float)
    measured = {"flow": lengths, "sharpness": lengths**2, "flicker": ones, "consistency": ones}
    return Scores(captions, {"features": features, "thumbnails": 2 * features, **measured})


def figures_of(row: Scores, baseline: Scores, reference: Scores | None = None) -> dict[str, Estimate]:
    return row_figures(all_metrics(), row, Beside(baseline, reference))


def test_shares_are_of_the_reference() -> None:
    captions = ("a", "a", "b", "b")
    reference, half = scores(captions, [2, 2, 4, 4], 1.0), scores(captions, [1, 1, 2, 2], 0.5)
    figures = figures_of(half, reference)
    assert figures["flow"].value == figures["flow"].low == figures["flow"].high == 0.5
    assert figures["sharpness"].value == figures["sharpness"].low == figures["sharpness"].high == 0.25
    assert figures["diversity"].value == pytest.approx(0.5)
    assert figures["spread"].value == pytest.approx(0.5) and figures["spread_distance"].value > 0
    assert "frechet" not in figures and "kernel" not in figures
    shuffled = scores(("b", "a", "a", "b"), [2, 1, 1, 2], 0.5)
    assert figures_of(shuffled, reference)["flow"] == Estimate(0.5, 0.5, 0.5, 2)
    other = scores(("c", "c", "d", "d"), [1, 1, 2, 2], 0.5)
    figures = figures_of(other, reference, reference)
    assert figures["flow"].value == 0.5 and figures["flow"].low < 0.5 < figures["flow"].high
    assert "diversity" not in figures and "diversity_distance" in figures and "frechet" in figures


def test_diversity_is_a_share_of_real_clips_where_they_have_samples_of_each_prompt() -> None:
    captions = ("a", "a", "b", "b")
    teacher, student = scores(captions, [1, 1, 1, 1], 2.0), scores(captions, [1, 1, 1, 1], 1.0)
    real = scores((*captions, "c"), [1, 1, 1, 1, 1], 4.0)
    assert figures_of(student, teacher, real)["spread"].value == pytest.approx(0.25)
    assert figures_of(teacher, teacher, real)["diversity"].value == pytest.approx(0.5)
    once = scores(("a", "a", "b", "c"), [1, 1, 1, 1], 4.0)
    assert figures_of(student, teacher, once)["spread"].value == pytest.approx(0.5)


def test_the_floor_compares_clips_of_one_kind() -> None:
    captions = tuple(f"prompt {n // 4}" for n in range(80))
    clips = scores(captions, [1.0] * 80, 1.0)
    floor = distance_floor(all_metrics(), clips)
    assert floor["kernel"].low < 0 < floor["kernel"].high and floor["frechet"].value > 0
    assert floor["kernel"].count == 40
    shifted = scores(captions, [1.0] * 80, 1.0)
    shifted["features"][:] += 1.0
    assert figures_of(shifted, clips, clips)["kernel"].low > floor["kernel"].high


@pytest.fixture
def measure(tmp_path: Path) -> Iterator[Callable[[str], np.ndarray]]:
    """Scores two stored clips, dark and bright, by a metric from outside whose `measure` returns what is given."""
    store_arrays(
        tmp_path / "0.npz", {"frames": np.stack([np.full((2, 4, 4, 3), n, np.uint8) for n in (0, 8)])}
    )
    clips = StoredClips(tmp_path, (tmp_path / "0.npz",), 2, ("a", "b"), 16.0)
    encoder = load_frame_features("efficientnet", device="cpu")

    def score(returned: str) -> np.ndarray:
        code = f"""
import numpy as np
from swd_video.evaluation.metrics.metric import MeanOfClips
class Mine(MeanOfClips):
    key = title = "mine"
    def measure(self, batch):
        return {{"mine": {returned}}}
"""
        (tmp_path / "my_own_metric.py").write_text(code)
        sys.modules.pop("my_own_metric", None)
        importlib.invalidate_caches()
        mine = importlib.import_module("my_own_metric").Mine()
        return score_clips(clips, [mine], Judges(encoder, encoder))["mine"]

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setattr(sys, "dont_write_bytecode", True)
        yield score
    sys.modules.pop("my_own_metric", None)


def test_a_metric_from_outside_that_is_edited_measures_again(measure: Callable[[str], np.ndarray]) -> None:
    assert measure("batch.frames.mean(axis=(1, 2, 3, 4))").tolist() == [0, 8]
    assert measure("batch.frames.mean(axis=(1, 2, 3, 4)) / 2").tolist() == [0, 4]


def test_measurements_whose_file_was_cut_are_made_again(
    measure: Callable[[str], np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("batch.frames.mean(axis=(1, 2, 3, 4))").tolist() == [0, 8]
    (path,) = tmp_path.glob("scores-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert measure("batch.frames.mean(axis=(1, 2, 3, 4))").tolist() == [0, 8]
    assert f"warning: {path}: the file is damaged, and made again.\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("batch.frames.mean()", r"gave mine of shape \(\) with 0 values"),
        ("np.zeros(1)", r"gave mine of shape \(1,\) with 0 values"),
        (
            "np.array([1.0, np.nan])",
            r"gave mine of shape \(2,\) with 1 values that are no finite numbers for 2 clips",
        ),
    ],
)
def test_a_metric_that_measures_no_number_of_each_clip_is_named(
    returned: str, message: str, measure: Callable[[str], np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=f"^metric mine: measure {message}"):
        measure(returned)


def test_an_unpaired_ratio_is_wider_and_covers() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        top, bottom = rng.gamma(4.0, 1.0, size=30), rng.gamma(4.0, 2.0, size=40)
        estimate = bootstrap_ratio_unpaired(top, bottom)
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.85 <= hits / 60 <= 1.0
    both = rng.gamma(4.0, 1.0, size=30)
    paired, unpaired = bootstrap_ratio(2 * both, both), bootstrap_ratio_unpaired(2 * both, both)
    assert paired.high - paired.low < 1e-9 < unpaired.high - unpaired.low
    with pytest.raises(ValueError, match="expected a positive one"):
        bootstrap_ratio_unpaired(both, np.zeros(3))
