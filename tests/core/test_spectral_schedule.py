import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swd_video.core.grid import Compression, LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.core.spectral_schedule import (
    BudgetedSchedule,
    check_handovers,
    schedule_within_budget,
)
from swd_video.core.spectrum import Averaging, LatentSpectrum, Patch

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


def tokens(grid: LatentSize) -> float:
    return float(math.prod(grid.as_tuple()))


def power_law(size: LatentSize, scale: float, slope: float) -> LatentSpectrum:
    """Power that falls with every axis' frequency; the first frame is as strong as the mean of the others."""
    frames = torch.arange(size.frames).double().sub(1).clamp(min=0)
    rows, columns = torch.arange(size.height).double(), torch.arange(size.width).double()
    distance = 1 + frames[:, None, None] + rows[:, None] + columns
    return LatentSpectrum(scale * distance**-slope, 1)


def test_handovers_are_held_against_the_next_stage_s_noise() -> None:
    """Power 9 on what 2x4x4 holds and 1 elsewhere: hidden from sigma 1/2 on by the small grid, nothing below."""
    power = torch.ones(3, 8, 8).double()
    power[:2, :4, :4] = 9
    spectrum = LatentSpectrum(power, 1)
    small, large = LatentSize(2, 6, 6), LatentSize(3, 8, 8)
    schedule = ScaleSchedule((Stage(1.0, small), Stage(0.6, small), Stage(0.4, large)))
    first, second = check_handovers(spectrum, schedule)
    assert (first.grid, first.sigma, first.hidden) == (small, 0.6, True)
    assert (second.grid, second.sigma, second.hidden) == (small, 0.4, False)
    assert second.needed == large
    assert first.lost_over_noise == pytest.approx((0.4 / 0.6) ** 2)
    assert second.lost_over_noise == pytest.approx((0.6 / 0.4) ** 2)
    with pytest.raises(ValueError, match="ends on 3x8x8, the latents are 3x8x10"):
        check_handovers(LatentSpectrum(torch.ones(3, 8, 10).double(), 1), schedule)


def test_an_ample_budget_gives_even_steps() -> None:
    spectrum = power_law(LatentSize(5, 12, 12), 30, 3)
    found = schedule_within_budget(spectrum, 4, math.inf, tokens)
    assert found.shift == 1
    assert found.schedule.sigmas == (1, 0.75, 0.5, 0.25)
    expected = [*(spectrum.smallest_grid(sigma) for sigma in (0.75, 0.5, 0.25)), spectrum.size]
    assert list(found.schedule.grids) == expected


def test_an_ample_budget_gives_even_steps_of_the_models_own_schedule() -> None:
    spectrum = power_law(LatentSize(5, 12, 12), 300, 3)
    found = schedule_within_budget(spectrum, 4, math.inf, tokens, shift=3)
    assert found.shift == 3 and found.schedule.sigmas == (
        1,
        0.9,
        0.75,
        0.5,
    )  # SwD's for Wan are 0.896, 0.737 and 0.602
    tight = schedule_within_budget(spectrum, 4, 1.2 * tokens(spectrum.size), tokens, shift=3)
    assert tight.shift >= 3 and tight.cost <= 1.2 * tokens(spectrum.size)


def test_a_tight_budget_shifts_no_more_than_it_must() -> None:
    spectrum = power_law(LatentSize(5, 12, 12), 300, 3)
    ample = schedule_within_budget(spectrum, 4, math.inf, tokens)
    budget = 1.5 * tokens(spectrum.size)
    found = schedule_within_budget(spectrum, 4, budget, tokens)
    assert found.cost <= budget < ample.cost
    assert all(a >= b for a, b in zip(found.schedule.sigmas, ample.schedule.sigmas, strict=True))
    # One thousandth less noise on the way into some stage, and the grids before it cost more than allowed.
    sigmas = found.schedule.sigmas[1:]
    tighter = [
        [*(spectrum.smallest_grid(sigma - 0.001 * (at == index)) for at, sigma in enumerate(sigmas))]
        for index in range(len(sigmas))
    ]
    assert max(sum(map(tokens, [*grids, spectrum.size])) for grids in tighter) > budget


def test_a_budget_that_nothing_meets_is_refused() -> None:
    spectrum = power_law(LatentSize(5, 12, 12), 300, 3)
    with pytest.raises(ValueError) as error:
        schedule_within_budget(spectrum, 4, 0.9 * tokens(spectrum.size), tokens)
    message = str(error.value)
    assert message.startswith("budget: 4 stages cost at least 1.0")
    assert "expected at most 0.900. Raise the budget" in message
    with pytest.raises(ValueError, match="stages: got 0, expected 1 to 500"):
        schedule_within_budget(spectrum, 0, 1e9, tokens)


@st.composite
def spectra(draw: st.DrawFn) -> tuple[LatentSpectrum, Patch]:
    """Any spectrum, falling or not, on a legal grid."""
    patch = draw(st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 2, 2)]))
    frames = draw(st.integers(1, 6)) * patch[0]
    height, width = draw(st.integers(1, 6)) * patch[1], draw(st.integers(1, 6)) * patch[2]
    size = LatentSize(max(2, frames), height, width)
    rough = torch.randn(*size.as_tuple(), generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    law = power_law(size, 10.0 ** draw(st.integers(-3, 5)), draw(st.floats(0, 4)))
    return LatentSpectrum(law.power * rough.double().mul(draw(st.floats(0, 2))).exp(), 1), patch


@settings(max_examples=40)
@given(
    spectra(),
    st.integers(1, 8),
    st.floats(0.5, 4),
    st.floats(1, 3),
    st.sampled_from(["none", "radial", "axis"]),
)
def test_any_budget_gives_a_valid_schedule_or_a_reason(
    spectrum_and_patch: tuple[LatentSpectrum, Patch],
    num_stages: int,
    evaluations: float,
    exponent: float,
    averaging: Averaging,
) -> None:
    spectrum, patch = spectrum_and_patch
    full = tokens(spectrum.size) ** exponent
    try:
        found: BudgetedSchedule = schedule_within_budget(
            spectrum,
            num_stages,
            evaluations * full,
            lambda grid: tokens(grid) ** exponent,
            patch,
            averaging,
        )
    except ValueError as error:
        smallest = math.prod(patch) ** exponent
        assert str(error).startswith("budget: ")
        assert evaluations * full < full + (num_stages - 1) * max(smallest, full)
        return
    schedule = found.schedule
    assert ScaleSchedule.from_dict(schedule.as_dict()) == schedule
    assert schedule.target == spectrum.size and len(schedule) == num_stages
    assert found.cost == sum(tokens(grid) ** exponent for grid in schedule.grids) <= evaluations * full
    for grid in schedule.grids:
        Compression(patch=patch).tokens(grid)
    for handover in check_handovers(spectrum, schedule, patch, averaging):
        assert handover.grid == handover.needed and handover.hidden
    for stage in schedule:
        enough = spectrum.smallest_grid(stage.sigma, patch, averaging)
        assert all(a >= b for a, b in zip(stage.grid.as_tuple(), enough.as_tuple(), strict=True))
    assert all(round(sigma, 3) == sigma for sigma in schedule.sigmas)
