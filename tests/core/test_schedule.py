from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swd_video.core.grid import Compression, LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage

# beartype looks at a random stage of every schedule that a strategy builds; no draw depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

WAN_STAGES = [
    {"sigma": 1.0, "frames": 6, "height": 20, "width": 34},
    {"sigma": 0.896, "frames": 11, "height": 30, "width": 52},
    {"sigma": 0.737, "frames": 16, "height": 40, "width": 70},
    {"sigma": 0.602, "frames": 21, "height": 60, "width": 104},
]


WINDOW = {"frames": 7, "height": 20, "width": 26}


@st.composite
def schedules(draw: st.DrawFn) -> ScaleSchedule:
    """Any schedule that the rules allow, on grids of whole 1x2x2 patches."""
    count = draw(st.integers(1, 5))
    below_one = draw(
        st.lists(st.integers(1, 999), min_size=count - 1, max_size=count - 1, unique=True).map(
            lambda values: sorted(values, reverse=True)
        )
    )
    sigmas = [1.0, *(value / 1000 for value in below_one)]
    axes = [sorted(draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))) for _ in range(3)]
    grids = [LatentSize(f, 2 * h, 2 * w) for f, h, w in zip(*axes, strict=True)]
    return ScaleSchedule(tuple(Stage(sigma, grid) for sigma, grid in zip(sigmas, grids, strict=True)))


def test_a_published_schedule() -> None:
    schedule = ScaleSchedule.from_dict(WAN_STAGES)
    assert schedule.target == LatentSize(21, 60, 104)
    assert schedule.sigmas == (1.0, 0.896, 0.737, 0.602)
    assert len(schedule) == 4 and [stage.grid for stage in schedule] == list(schedule.grids)
    assert schedule.as_dict() == WAN_STAGES
    assert str(schedule).startswith("6x20x34 at 1 -> 11x30x52 at 0.896")


def test_distinct_grids_are_in_stage_order() -> None:
    small, large = LatentSize(1, 2, 2), LatentSize(1, 4, 4)
    schedule = ScaleSchedule(tuple(map(Stage, (1.0, 0.9, 0.5), (small, small, large))))
    assert schedule.distinct_grids == (small, large)


@given(schedules())
def test_plain_numbers_lead_back_to_the_schedule(schedule: ScaleSchedule) -> None:
    assert ScaleSchedule.from_dict(schedule.as_dict()) == schedule


def test_windows_lead_back_to_the_schedule_and_keep_their_size() -> None:
    window = {**WINDOW, "shift": True, "global_every": 10}
    schedule = ScaleSchedule.from_dict(_changed(3, attention=window))
    assert schedule.as_dict() == _changed(3, attention=window)
    assert ScaleSchedule.from_dict(_changed(3, attention=WINDOW)).as_dict()[3]["attention"] == {
        **window,
        "global_every": None,
    }
    longer = schedule.scaled_to(LatentSize(41, 60, 104))
    assert [stage.attention for stage in longer] == [stage.attention for stage in schedule]
    assert schedule.tokens(Compression()) == [1020, 4290, 11200, 32760]
    odd = ScaleSchedule.from_dict(_changed(3, attention={**window, "height": 21}))
    with pytest.raises(
        ValueError, match=r"schedule\[3\]\.attention: latent size 7x21x26 is not a whole number of 1x2x2"
    ):
        odd.tokens(Compression())


def _changed(stage: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**values, **changes} if i == stage else values for i, values in enumerate(WAN_STAGES)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [*_changed(2, frames=21)[:3], {**WAN_STAGES[3], "frames": 20}],
            "schedule[3]: 20 latent frames cannot follow 21; stages must not shrink. "
            "Reorder stages or drop it.",
        ),
        (_changed(2, height=28), "schedule[2]: 28 latents of height cannot follow 30"),
        (_changed(1, width=32), "schedule[1]: 32 latents of width cannot follow 34"),
        (_changed(0, sigma=0.9), "schedule[0]: got sigma 0.9, expected 1"),
        (_changed(2, sigma=0.896), "schedule[2]: sigma 0.896 cannot follow 0.896"),
        (_changed(2, sigma=0.95), "schedule[2]: sigma 0.95 cannot follow 0.896"),
        (_changed(3, sigma=0.0), "schedule[3]: got sigma 0.0, expected above 0"),
        (_changed(3, sigma=-1), "schedule[3]: got sigma -1.0, expected above 0"),
        (_changed(3, sigma=float("nan")), "schedule[3]: got sigma nan, expected above 0"),
        (_changed(1, sigma="0.9"), "schedule[1].sigma: got '0.9', expected a number"),
        (_changed(1, frames=11.0), "schedule[1].frames: got 11.0, expected a whole number"),
        (_changed(1, frames=0), "schedule[1].frames: got 0, expected a whole number"),
        (
            _changed(1, depth=3),
            "schedule[1]: got sigma, frames, height, width, depth, expected",
        ),
        ([{"sigma": 1.0}], "schedule[0]: got sigma, expected exactly the keys"),
        (
            _changed(3, attention={"frames": 7}),
            "schedule[3].attention: got {'frames': 7}, expected frames, height",
        ),
        (
            _changed(3, attention="local"),
            "schedule[3].attention: got 'local', expected frames, height and width",
        ),
        (
            _changed(3, attention={**WINDOW, "height": 0}),
            "schedule[3].attention: LatentSize.height: got 0, expected",
        ),
        (
            _changed(3, attention={**WINDOW, "global_every": 0}),
            "schedule[3].attention: global_every: got 0, expected",
        ),
        # beartype, which only tests have, speaks first
        (
            _changed(3, attention={**WINDOW, "shift": 1}),
            "schedule[3].attention: ",
        ),
        ([], "schedule: got no stages"),
    ],
)
def test_broken_rules_name_the_stage_and_the_cure(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError) as error:
        ScaleSchedule.from_dict(stages)
    assert str(error.value).startswith(message)


def test_scaling_keeps_each_stage_s_share_of_time_and_space() -> None:
    schedule = ScaleSchedule.from_dict(WAN_STAGES)
    longer = schedule.scaled_to(LatentSize(41, 60, 104))
    assert [grid.frames for grid in longer.grids] == [11, 21, 31, 41]
    assert [grid.height for grid in longer.grids] == [20, 30, 40, 60]
    smaller = schedule.scaled_to(LatentSize(21, 30, 52))
    assert [(grid.height, grid.width) for grid in smaller.grids] == [(10, 18), (16, 26), (20, 36), (30, 52)]
    assert longer.sigmas == schedule.sigmas
    assert schedule.scaled_to(schedule.target) is schedule


def test_frames_that_a_vae_repeats_are_no_time() -> None:
    grids = (LatentSize(2, 2, 2), LatentSize(6, 2, 2), LatentSize(22, 2, 2))
    schedule, twice = ScaleSchedule(tuple(map(Stage, (1.0, 0.5, 0.2), grids))), Compression(patch=(2, 2, 2))
    longer = schedule.scaled_to(LatentSize(42, 2, 2), twice)
    assert [grid.frames for grid in longer.grids] == [2, 10, 42]
    picture = ScaleSchedule(tuple(map(Stage, (1.0, 0.5), grids[:1] * 2)))
    assert [grid.frames for grid in picture.scaled_to(LatentSize(6, 2, 2), twice).grids] == [6, 6]


def test_a_one_frame_schedule_scales_to_clips_in_space_only() -> None:
    schedule = ScaleSchedule(tuple(map(Stage, (1.0, 0.5), (LatentSize(1, 2, 2), LatentSize(1, 4, 4)))))
    assert [grid.frames for grid in schedule.scaled_to(LatentSize(5, 4, 4)).grids] == [5, 5]


def test_a_target_of_broken_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of 1x2x2 patches"):
        ScaleSchedule.from_dict(WAN_STAGES).scaled_to(LatentSize(21, 31, 52))


@given(schedules(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_any_schedule_scales_to_any_target(
    schedule: ScaleSchedule, frames: int, height: int, width: int
) -> None:
    target = LatentSize(frames, 2 * height, 2 * width)
    scaled = schedule.scaled_to(target)
    assert scaled.target == target
    assert scaled.sigmas == schedule.sigmas
    for grid in scaled.grids:
        Compression().tokens(grid)


@given(schedules(), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_whole_patches_hold_in_time_too(
    schedule: ScaleSchedule, frames: int, height: int, width: int
) -> None:
    compression = Compression(patch=(2, 4, 2))
    scaled = schedule.scaled_to(LatentSize(2 * frames, 4 * height, 2 * width), compression)
    if scaled is not schedule:
        for grid in scaled.grids:
            compression.tokens(grid)
