"""Differences of rows that share prompts, on synthetic scores whose true difference is known."""

import numpy as np
import pytest

from swd_video.core.interval import Estimate, bootstrap_mean, bootstrap_ratio, bootstrap_share
from swd_video.evaluation.difference import Difference, Direction, difference

MARGIN = 0.05
PROMPT_DEVIATION, NOISE = 0.5, 0.05


def rows(rng: np.random.Generator, prompts: int, gain: float) -> tuple[Estimate, Estimate]:
    """Two rows whose prompts differ far more than the rows do; the second has `gain` more of what the first has."""
    hardness = np.exp(PROMPT_DEVIATION * rng.normal(size=prompts))
    first, second = (hardness * np.exp(NOISE * rng.normal(size=prompts)) for _ in range(2))
    reference = hardness.copy()
    ours, theirs = (bootstrap_ratio(v, reference, resamples=150) for v in ((1 + gain) * second, first))
    return ours, theirs


def verdicts(gain: float, prompts: int, better: Direction = "higher", trials: int = 60) -> list[str]:
    rng = np.random.default_rng([prompts, int(1000 * (1 + gain))])
    return [difference(*rows(rng, prompts, gain), MARGIN, better).verdict for _ in range(trials)]


def test_a_small_gain_that_overlapping_intervals_hide_is_found() -> None:
    ours, theirs = (bootstrap_mean(v) for v in gaining_means())
    assert ours.low < theirs.high and theirs.low < ours.high
    assert difference(ours, theirs, MARGIN, "higher").verdict == "better"


def gaining_means() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    hardness = 1 + 0.4 * rng.normal(size=64)
    return 1.06 * hardness + 0.05 * rng.normal(size=64), hardness + 0.05 * rng.normal(size=64)


@pytest.mark.parametrize(
    ("gain", "right", "wrong"),
    [
        (0.0, {"equal", "slightly better", "slightly worse"}, {"better", "worse"}),
        (0.025, {"equal", "slightly better", "better"}, {"worse", "slightly worse"}),
        (0.10, {"better"}, {"worse", "slightly worse", "slightly better", "equal"}),
        (-0.10, {"worse"}, {"better", "slightly worse", "slightly better", "equal"}),
    ],
)
def test_more_clips_find_the_truth_more_often_and_never_another(
    gain: float, right: set[str], wrong: set[str]
) -> None:
    power = []
    for prompts in (8, 24, 96):
        found = verdicts(gain, prompts)
        power.append(np.mean([verdict in right for verdict in found]))
        assert np.mean([verdict in wrong for verdict in found]) <= 0.1
    assert power[0] <= power[1] <= power[2] and power[0] < power[2] and power[2] > 0.95


@pytest.mark.parametrize(
    ("gain", "ahead", "no_worse"), [(0.10, 1, 1), (-0.10, 0, 0), (-0.02, 0, 1), (0.0, 0, 1)]
)
def test_targets_become_neither_harder_nor_easier_with_clips(gain: float, ahead: int, no_worse: int) -> None:
    """Met ever more often where the truth meets them, and hardly ever where it does not, with few clips either."""
    rng = np.random.default_rng(1)
    rates = []
    for prompts in (6, 200):
        found = [difference(*rows(rng, prompts, gain), MARGIN, "higher") for _ in range(40)]
        rates.append([np.mean([f.is_ahead for f in found]), np.mean([f.is_no_worse for f in found])])
    for few, many, truth in zip(*rates, (ahead, no_worse), strict=True):
        assert many > 0.9 and many >= few if truth else max(few, many) <= 0.1


def test_intervals_hold_the_true_difference_with_few_prompts_too() -> None:
    rng = np.random.default_rng(2)
    for prompts in (4, 30):
        held = [
            (found := difference(*rows(rng, prompts, 0.0), MARGIN, "higher")).low <= 0 <= found.high
            for _ in range(150)
        ]
        assert 0.91 <= np.mean(held) <= 1.0


def test_rows_without_a_fault_are_not_equal_by_fewness() -> None:
    """Both right in every clip: how rarely they might yet differ depends on the number of prompts."""
    for prompts, verdict in ((20, "not told apart"), (82, "equal")):
        perfect = bootstrap_share(np.ones(3 * prompts, dtype=np.int64), np.repeat(np.arange(prompts), 3))
        found = difference(perfect, perfect, MARGIN, "higher")
        assert found.verdict == verdict and found.high == pytest.approx(1 - 0.025 ** (1 / prompts))
    assert difference(*[bootstrap_mean(np.ones(1))] * 2, MARGIN, "higher").verdict == "not told apart"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, ("better", "worse", "more")),
        (-0.2, -0.06, ("worse", "better", "less")),
        (0.01, 0.04, ("slightly better", "slightly worse", "slightly more")),
        (-0.02, 0.04, ("equal",) * 3),
        (-0.02, 0.06, ("not told apart",) * 3),
    ],
)
def test_words_follow_from_interval_margin_and_direction(
    low: float, high: float, words: tuple[str, ...]
) -> None:
    directions: tuple[Direction, ...] = ("higher", "lower", "reference")
    found = [Difference((low + high) / 2, low, high, MARGIN, direction) for direction in directions]
    assert tuple(f.verdict for f in found) == words
    assert [f.is_ahead for f in found] == [low > 0, high < 0, low > 0]
    assert [f.is_no_worse for f in found] == [low > -MARGIN, high < MARGIN, low > -MARGIN]
