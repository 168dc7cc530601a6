"""Schedules from spectra: grids that lose nothing the noise does not hide, noise levels that meet a budget.

What stage i predicts on its grid is upsampled and noised to the sigma of stage i + 1. Frequencies that the grid of
stage i cannot hold are missing there, and are missed unless that noise hides them. So the rule is about the *handover*:
the grid of stage i is at least what the spectrum allows at sigma_{i+1}. It implies that each grid is enough at its own
sigma, for noise falls and grids grow.

Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 3. The handover rule and the search are
ours. The paper's schedule for Wan2.1 obeys the rule where the paper lets one tell: 6x20x34 is handed over at 0.896, and
5x20x34 is enough at 0.8; 16x40x70 is handed over at 0.602, and 11x30x52 is enough at 0.6.
"""

from collections.abc import Callable
from dataclasses import dataclass

from swd_video.core.flow import shift_sigma
from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.core.spectrum import Averaging, LatentSpectrum, Patch

CostFunction = Callable[[LatentSize], float]
"""What one evaluation of the transformer costs on a grid, in any unit; larger grids cost more."""

# Noise levels are whole thousandths, as they are written into configs: the grids are those of the written numbers.
_DECIMALS = 3
# Two thousandths between the unrounded levels leave at least one between the rounded ones.
_MIN_GAP = 2e-3
_BISECTIONS = 30


@dataclass(frozen=True)
class BudgetedSchedule:
    """A schedule found by `schedule_within_budget`.

    Attributes:
        schedule: noise levels and grids.
        shift: the shift that gave the noise levels, the model's own or more; 1 is even steps.
        cost: of all stages, in the unit of the cost function.
    """

    schedule: ScaleSchedule
    shift: float
    cost: float


@dataclass(frozen=True)
class Handover:
    """From one stage to the next: whether the noise hides what the smaller grid lost.

    Attributes:
        grid: where the x0 that is handed over was predicted.
        sigma: noise level that it is noised to.
        needed: the smallest grid that loses only hidden frequencies at that noise level.
        lost_over_noise: the joint criterion, see `LatentSpectrum.lost_over_noise`.
    """

    grid: LatentSize
    sigma: float
    needed: LatentSize
    lost_over_noise: float

    @property
    def hidden(self) -> bool:
        """Whether `grid` is at least `needed` on every axis."""
        return all(
            have >= need for have, need in zip(self.grid.as_tuple(), self.needed.as_tuple(), strict=True)
        )


def check_handovers(
    spectrum: LatentSpectrum,
    schedule: ScaleSchedule,
    patch: Patch = (1, 2, 2),
    averaging: Averaging = "none",
) -> list[Handover]:
    """Hold every handover of a schedule against spectra of its target grid.

    Raises:
        ValueError: if the schedule ends on another grid than that of the spectra.
    """
    if schedule.target != spectrum.size:
        raise ValueError(
            f"schedule: ends on {schedule.target}, the latents are {spectrum.size}; "
            "give latents of the schedule's last grid."
        )
    return [
        Handover(
            before.grid,
            stage.sigma,
            spectrum.smallest_grid(stage.sigma, patch, averaging),
            spectrum.lost_over_noise(before.grid, stage.sigma),
        )
        for before, stage in zip(schedule.stages, schedule.stages[1:], strict=False)
    ]


def schedule_within_budget(
    spectrum: LatentSpectrum,
    num_stages: int,
    budget: float | int,
    cost: CostFunction,
    patch: Patch = (1, 2, 2),
    averaging: Averaging = "none",
    shift: float | int = 1.0,
) -> BudgetedSchedule:
    """The schedule of N stages that spreads its noise levels as evenly as a budget allows.

    Noise levels are N even steps, 1, (N - 1) / N, ..., 1 / N, moved towards 1 by `shift_sigma`. The more they are
    shifted, the more the noise hides, the smaller the grids may be and the less they cost, but the more is left for
    the last stage to settle in one step. So the shift is the smallest, from the model's own on, that meets the budget:
    at its own, every stage stands for as many of the model's sampling steps. Each grid is the smallest that the
    spectrum allows at the next stage's noise level; the last is that of the latents.

    Args:
        spectrum: spectra of latents on the target grid.
        num_stages: how many.
        budget: what all stages together may cost, in the unit of `cost`.
        cost: of one evaluation on a grid.
        patch: latents in one transformer token along frames, height and width.
        averaging: see `Averaging`.
        shift: of the model's noise schedule; 1 for one whose steps are even.

    Raises:
        ValueError: if no shift meets the budget, or `num_stages` is out of range.
    """
    largest = _check_stages(num_stages, shift)

    def with_shift(moved: float) -> BudgetedSchedule:
        steps = [(num_stages - index) / num_stages for index in range(num_stages)]
        sigmas = [round(shift_sigma(step, moved), _DECIMALS) for step in steps]
        grids = [spectrum.smallest_grid(sigma, patch, averaging) for sigma in sigmas[1:]]
        stages = map(Stage, sigmas, [*grids, spectrum.size])
        schedule = ScaleSchedule(tuple(stages))
        return BudgetedSchedule(schedule, moved, sum(map(cost, schedule.grids)))

    even = with_shift(float(shift))
    if even.cost <= budget:
        return even
    low, best = float(shift), with_shift(max(float(shift), largest))
    if best.cost > budget:
        full = cost(spectrum.size)
        raise ValueError(
            f"budget: {num_stages} stages cost at least {best.cost / full:.3f} evaluations at full size, expected at "
            f"most {budget / full:.3f}. Raise the budget, or take fewer stages."
        )
    for _ in range(_BISECTIONS):
        middle = with_shift((low + best.shift) / 2)
        if middle.cost <= budget:
            best = middle
        else:
            low = middle.shift
    return best


def _check_stages(num_stages: int, shift: float | int) -> float:
    """Refuse a number of stages whose noise levels would be the same when written; returns the largest shift."""
    most = int(1 / _MIN_GAP)
    if not 1 <= num_stages <= most:
        raise ValueError(f"stages: got {num_stages}, expected 1 to {most}.")
    largest = _largest_shift(num_stages)
    if num_stages > 1 and shift > largest:
        raise ValueError(
            f"stages: the first two of {num_stages} are closer than {_MIN_GAP:g} in noise at shift {shift:g}. Take "
            "fewer stages."
        )
    return largest


def _largest_shift(num_stages: int) -> float:
    """Where the first two noise levels, the nearest to each other, are `_MIN_GAP` apart."""
    if num_stages == 1:
        return 1.0
    return 1 + (1 / _MIN_GAP - num_stages) / (num_stages - 1)
