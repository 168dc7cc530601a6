import numpy as np
import pytest

from swd_video.evaluation.metrics.consistency import subject_consistency


def test_a_clip_that_never_changes_has_one() -> None:
    features = np.random.default_rng(0).normal(size=(2, 1, 5)).repeat(6, axis=1)
    np.testing.assert_allclose(subject_consistency(features), 1.0)


def test_the_formula_by_hand() -> None:
    """Directions at 0, 60 and 180 degrees: cosines to the frame before 1/2 and -1/2, to the first 1/2 and -1."""
    angles = np.deg2rad([0, 60, 180])
    clip = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1.0], [7.0], [0.2]])
    assert subject_consistency(clip[None])[0] == pytest.approx(((0.5 + 0.5) / 2 + 0.0) / 2)


def test_a_frame_without_features_is_like_nothing() -> None:
    clip = np.array([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    assert subject_consistency(clip)[0] == pytest.approx((0.0 + 0.5) / 2)
