"""Counting a run: what is done, what is left, and the price of each step."""

import json

import pytest

from swd_video.studio.progress import Event, Progress, as_lines
from swd_video.studio.script import Shot, Take


class Clock:
    """Time that passes when it is told to."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def take(name: str) -> Take:
    return Take(Shot(name, "a tiger"), 1, 0)


def test_time_left_counts_every_step_at_its_own_price() -> None:
    clock, events = Clock(), list[Event]()
    progress = Progress(events.append, now=clock)
    # b is twice as large as a; the last of the three steps is decoding.
    sizes = {"a": [10, 40, 40], "b": [20, 80, 80], "c": [10, 40, 40]}
    progress.plan(4, sizes, "four clips, one is finished")
    assert events[-1].seconds_left is None and events[-1].fraction == 0

    progress.clip(take("finished"), "skipped", "finished before")
    assert (events[-1].done, events[-1].total, events[-1].seconds_left) == (1, 4, None)
    clock.seconds += 1000  # nobody's
    progress.begin()
    seconds = {0: 1.0, 1: 8.0, "decode": 40.0}
    clock.seconds += seconds[0]
    progress.stage(take("a"), 0, 2)
    assert events[-1].stage == 1 and events[-1].stages == 2
    # What is not known costs by size what is known.
    assert events[-1].seconds_left == pytest.approx((80 + 180 + 90) * 0.1)
    clock.seconds += seconds[1]
    progress.stage(take("a"), 1, 2)
    clock.seconds += seconds["decode"]
    progress.clip(take("a"), "rendered", "a is there")
    assert events[-1].done == 2
    assert events[-1].seconds_left == pytest.approx(3 * sum(seconds.values()))

    progress.begin()
    clock.seconds += 5
    progress.clip(take("b"), "failed", "b failed", "no memory")
    assert events[-1].error == "no memory" and events[-1].seconds_left == pytest.approx(sum(seconds.values()))
    # Its stages were made by an earlier run: only decoding is paid.
    progress.begin()
    clock.seconds += 40
    progress.clip(take("c"), "rendered", "c is there")
    progress.done("failed", "1 failed")
    assert (events[-1].seconds_left, events[-1].fraction, events[-1].done) == (0, 1, 4)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)


def test_a_batch_is_paid_once() -> None:
    clock, events = Clock(), list[Event]()
    progress = Progress(events.append, now=clock)
    names = [f"shot-{number}" for number in range(8)]
    progress.plan(8, {name: [10, 10] for name in names}, "")
    progress.begin()
    clock.seconds += 8
    for name in names:
        progress.stage(take(name), 0, 1)
    clock.seconds += 16
    for name in names[:4]:
        progress.clip(take(name), "rendered", "")
    assert events[-1].seconds_left == pytest.approx(16)


def test_events_are_plain_values_and_lines() -> None:
    events, lines = list[Event](), list[str]()
    progress = Progress(events.append, as_lines(lines.append))
    progress.note("loading")
    progress.warning("unknown word")
    progress.plan(1, {"a": [1, 1]}, "one clip")
    progress.stage(take("a"), 0, 1, preview="a.preview.webp")
    progress.clip(take("a"), "rendered", "a is there")
    progress.done("done", "1 rendered")
    assert lines == ["loading", "warning: unknown word", "[1/1] a is there"]
    told = [json.loads(json.dumps(event.as_dict())) for event in events]
    assert [event["event"] for event in told] == ["note", "warning", "plan", "stage", "clip", "done"]
    keys = {
        "event", "text", "shot", "take", "stage", "stages", "done", "total", "fraction", "seconds_left", "preview",
        "status", "error",
    }  # fmt: skip
    assert all(set(event) == keys for event in told)
    assert (told[3]["shot"], told[3]["take"], told[3]["preview"]) == ("a", 1, "a.preview.webp")
