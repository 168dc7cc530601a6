"""The time left and the smoothed losses."""

import pytest

from swd_video.training.progress import SmoothLoss, TimeLeft, format_seconds

# Stage 0 costs 1 s, stage 1 costs 10 s; a cheap first half is followed by a dear second half.
PLAN = [0] * 5 + [1] * 5
COST = {0: 1.0, 1: 10.0}


def _estimate() -> TimeLeft:
    return TimeLeft(lambda step, part: PLAN[step], steps=10, num_parts=1, tokens=(10, 100))


def test_knows_nothing_before_the_first_step() -> None:
    assert _estimate().seconds_left(0) is None


def test_a_stage_not_met_yet_is_priced_by_its_tokens() -> None:
    estimate = _estimate()
    estimate.add_step([(0, 0.5, COST[0])], seconds=1.5)
    # four more steps at 1 s, five at 10 s, and half a second of overhead for each of the nine
    assert estimate.seconds_left(1) == pytest.approx(4 * 1 + 5 * 10 + 9 * 0.5)


def test_each_coming_stage_is_priced_by_what_it_cost() -> None:
    estimate = _estimate()
    for stage in (0, 1):
        estimate.add_step([(stage, 0.5, 2 * COST[stage])], seconds=2 * COST[stage])
    assert estimate.seconds_left(4) == pytest.approx(2 + 5 * 20)
    assert estimate.seconds_left(10) == 0


def test_coming_samples_are_counted() -> None:
    estimate = _estimate()
    estimate.add_step([(0, 0.5, 1.0), (1, 0.5, 10.0)], seconds=11.0)
    estimate.add_pause(7.0)
    assert estimate.seconds_left(10, pauses_left=2) == pytest.approx(14)


def test_smooth_loss_keeps_stages_apart() -> None:
    losses = SmoothLoss(3)
    assert losses.mean is None
    losses.add(0, 1.0)
    losses.add(2, 3.0)
    losses.add(2, 1.0)
    assert losses.state == [1.0, None, pytest.approx(2.9)]
    assert losses.mean == pytest.approx(1.95)


@pytest.mark.parametrize(("seconds", "text"), [(42.0, "42 s"), (400.0, "7 min"), (11090.0, "3 h 05 min")])
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
