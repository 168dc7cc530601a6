"""Variety and way travelled, from what a judge reads."""

import numpy as np
import pytest

from swd_video.core.interval import Estimate
from swd_video.evaluation.attribute_judge import AttributeJudge
from swd_video.evaluation.clip_features import imagenet_features
from swd_video.evaluation.judges import Batch, Judges
from swd_video.evaluation.metrics.metric import Beside, Metric, Scores
from swd_video.evaluation.metrics.readings import Travel, Variety, travelled

READINGS = {"x_first": 0.1, "tint": 2.0, "x_last": 0.2}


def seen(readings: dict[str, float]) -> Batch:
    judge = AttributeJudge(
        {"subject": ("cat", "dog")}, readings=readings, input_frames=5, input_size_px=16, width=4
    )
    frames = np.random.default_rng(0).integers(0, 255, (4, 5, 16, 16, 3), dtype=np.uint8)
    encoder = imagenet_features()
    return Batch(frames, Judges(encoder, encoder, judge.eval()))


def value(figure: object) -> float:
    assert isinstance(figure, Estimate)
    return figure.value


def test_the_way_leads_from_first_to_last_in_all_that_has_both() -> None:
    readings = {
        "x_first": np.array([0.1, 0.5]),
        "tint": np.array([9.0, 1.0]),
        "x_last": np.array([0.4, 0.5]),
        "size_last": np.array([0.9, 0.7]),
        "size_first": np.array([0.5, 0.7]),
        "y_first": np.array([3.0, 1.0]),
    }
    found = travelled(readings)
    assert found is not None
    np.testing.assert_allclose(found, [0.5, 0.0], atol=1e-12)
    assert travelled({"tint": np.ones(2)}) is None


def test_the_way_is_in_the_units_of_what_is_read_and_a_share_of_the_baseline_s() -> None:
    batch = seen(READINGS)
    found = Travel().measure(batch)["travel"]
    np.testing.assert_allclose(found, abs(0.2 * batch.readings[:, 2] - 0.1 * batch.readings[:, 0]), rtol=1e-5)
    ours, theirs = (Scores(("a", "b"), {"travel": np.array(way)}) for way in ([0.1, 0.3], [0.4, 0.4]))
    assert value(Travel().summarise(ours, Beside(theirs))["travel"]) == pytest.approx(0.5)


def test_variety_is_a_share_of_the_real_clips_and_does_not_grow_with_the_number_of_readings() -> None:
    few, many = (
        Variety().measure(seen(dict.fromkeys(names, 1.0)))["readings"] for names in ("ab", "abcdefgh")
    )
    assert few.shape == (4, 2) and many.shape == (4, 8)
    rng = np.random.default_rng(0)
    captions = ("a",) * 40 + ("b",) * 40
    real, ours = (Scores(captions, {"readings": factor * rng.normal(size=(80, 5))}) for factor in (1.0, 0.5))
    assert value(Variety().summarise(ours, Beside(real, real))["variety"]) == pytest.approx(0.5, rel=0.1)
    batch = seen(READINGS)
    np.testing.assert_allclose(Variety().measure(batch)["readings"] * np.sqrt(3), batch.readings, rtol=1e-6)


@pytest.mark.parametrize("metric", [Travel(), Variety()])
def test_a_judge_that_reads_no_numbers_gives_no_figure(metric: Metric) -> None:
    measured = metric.measure(batch := seen({}))
    assert measured == {} and not metric.is_told_by(batch.judges)
    assert metric.is_told_by(seen(READINGS).judges)
    scores = Scores(("a", "a"), measured)
    assert metric.summarise(scores, Beside(scores)) == {}
