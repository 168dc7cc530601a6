import numpy as np
import pytest

from swd_video.core.interval import Estimate, bootstrap_ratio, bootstrap_ratio_unpaired
from swd_video.evaluation.metrics import all_metrics
from swd_video.evaluation.metrics.metric import Beside, Scores
from swd_video.evaluation.scores import distance_floor, row_figures


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
