import numpy as np
import pytest

from swd_video.evaluation.metrics.diversity import diversity_share, prompt_diversity, thumbnail


def test_spread_is_the_mean_pairwise_distance_of_each_prompt() -> None:
    features = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [7.0, 7.0], [7.0, 7.0], [100.0, 0.0]])
    prompts = np.array([4, 4, 4, 9, 9, 11])
    assert prompt_diversity(features, prompts) == {4: pytest.approx(10.0 / 3.0), 9: 0.0}


def test_share_of_shrunken_samples_is_the_shrinkage() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(16), 5)
    centres = np.repeat(10 * rng.normal(size=(16, 6)), 5, axis=0)
    offsets = rng.normal(size=(80, 6))
    teacher = prompt_diversity(centres + offsets, prompts)
    student = prompt_diversity(centres + 0.4 * offsets, prompts)
    share = diversity_share(student, teacher)
    assert share.value == pytest.approx(0.4)
    assert share.low == pytest.approx(0.4) and share.high == pytest.approx(0.4)
    other = prompt_diversity(centres + 0.4 * rng.normal(size=(80, 6)), prompts)
    assert diversity_share(other, teacher).low < 0.4 < diversity_share(other, teacher).high


def test_no_shared_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="several samples of one prompt"):
        diversity_share({1: 0.5}, {2: 0.5})


def test_thumbnails_lie_apart_by_grey_levels_and_not_by_fine_noise() -> None:
    rng = np.random.default_rng(1)
    grey = np.full((12, 64, 96, 3), 100, dtype=np.uint8)
    brighter = thumbnail(grey + np.uint8(30))
    assert np.linalg.norm(thumbnail(grey) - brighter) == pytest.approx(30.0, rel=1e-5)
    noisy = grey + rng.integers(0, 60, size=grey.shape).astype(np.uint8)
    assert np.linalg.norm(thumbnail(noisy) - brighter) < 6.0
    assert len(thumbnail(grey)) == 9 * 16 * 24 * 3
    tiny = rng.integers(0, 256, size=(2, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(thumbnail(tiny), tiny.reshape(-1) / np.sqrt(tiny.size), rtol=1e-6)
