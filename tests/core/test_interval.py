import numpy as np
import pytest

from swd_video.core.interval import (
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_share,
    bootstrap_statistic,
)


def test_mean_interval_has_the_width_of_the_normal_theory() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    estimate = bootstrap_mean(values)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.count == 400
    expected = 1.96 * values.std() / 20.0
    assert (estimate.high - estimate.low) / 2 == pytest.approx(expected, rel=0.1)


def test_samples_of_one_prompt_are_resampled_together() -> None:
    per_prompt = np.random.default_rng(1).normal(size=50)
    values = np.repeat(per_prompt, 8)
    prompts = np.repeat(np.arange(50), 8)
    naive = bootstrap_mean(values)
    honest = bootstrap_mean(values, prompts)
    assert honest.high - honest.low == pytest.approx(np.sqrt(8) * (naive.high - naive.low), rel=0.15)


def test_a_share_of_one_is_not_certain() -> None:
    estimate = bootstrap_share(np.ones(256, dtype=np.int64))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 256))
    none = bootstrap_share(np.zeros(256, dtype=np.int64), np.repeat(np.arange(64), 4))
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 64))
    mixed = bootstrap_share(np.array([1, 1, 1, 0] * 50))
    assert mixed.low < 0.75 < mixed.high < 1.0


def test_shares_of_few_prompts_hold_the_truth_as_often_as_they_say() -> None:
    draw, held = np.random.default_rng(4), 0
    for _ in range(200):
        share = bootstrap_share((draw.random(12) < 0.8).astype(np.int64), np.repeat(np.arange(3), 4))
        held += share.low <= 0.8 <= share.high
        assert share.low < share.high
    assert held >= 0.93 * 200
    # Prompts that agree say no more than their number does.
    alike = bootstrap_share(np.array([1, 0, 0, 1, 1, 0]), np.repeat(np.arange(3), 2))
    assert (alike.low, alike.high) == (0.0, 1.0)


def test_ratio_is_paired() -> None:
    below = np.random.default_rng(2).uniform(1.0, 9.0, size=100)
    estimate = bootstrap_ratio(0.5 * below, below)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.high - estimate.low < 1e-9
    with pytest.raises(ValueError, match="pair them"):
        bootstrap_ratio(below, below[:-1])
    with pytest.raises(ValueError, match="expected a positive one"):
        bootstrap_ratio(below, np.zeros(100))


@pytest.mark.parametrize("prompts", [3, 5, 8])
@pytest.mark.parametrize("kind", ["mean", "ratio"])
def test_intervals_of_a_few_prompts_hold_the_figure_as_often_as_they_say(prompts: int, kind: str) -> None:
    draws, held = np.random.default_rng(prompts), 0
    for _ in range(200):
        values = draws.normal(2.0, 0.5, size=prompts)
        estimate = (
            bootstrap_mean(values)
            if kind == "mean"
            else bootstrap_ratio(values, draws.normal(4.0, 0.5, prompts))
        )
        held += estimate.low <= (2.0 if kind == "mean" else 0.5) <= estimate.high
    assert held >= 0.91 * 200


def test_one_prompt_says_nothing_of_others() -> None:
    group = np.zeros(4, dtype=np.int64)
    mean = bootstrap_mean(np.array([1.0, 2.0, 3.0, 7.0]), group)
    assert (mean.value, mean.low, mean.high) == (3.25, -np.inf, np.inf)
    share = bootstrap_share(np.array([1, 0, 1, 1]), group)
    assert (share.value, share.low, share.high) == (0.75, 0.0, 1.0)
    other = bootstrap_statistic(lambda w: float(w.mean()), 4, group, resamples=10)
    assert (other.low, other.high) == (-np.inf, np.inf)


def test_statistic_interval_agrees_with_the_mean_interval() -> None:
    values = np.random.default_rng(3).normal(size=300)
    normal = bootstrap_statistic(lambda w: float(w @ values / w.sum()), 300, resamples=500)
    percentile = bootstrap_mean(values)
    assert normal.value == pytest.approx(percentile.value)
    assert normal.low == pytest.approx(percentile.low, abs=0.02)
    assert normal.high == pytest.approx(percentile.high, abs=0.02)


def test_scaling_changes_the_unit_of_everything() -> None:
    estimate = bootstrap_mean(np.arange(5.0))
    scaled = estimate.scaled(10.0)
    assert (scaled.value, scaled.high) == (10 * estimate.value, 10 * estimate.high)
    assert scaled.draws is not None and scaled.draws.max() == 10 * estimate.draws.max()


def test_empty_and_mismatched_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        bootstrap_mean(np.zeros(0))
    with pytest.raises(ValueError, match="one group for each"):
        bootstrap_mean(np.zeros(3), np.zeros(2, dtype=np.int64))
