"""What the spectra of latents allow: the smallest grid at each noise level, and a schedule for a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swd_video.core.flow import convert_sigma
from swd_video.core.grid import Compression
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.spectral_schedule import CostFunction, check_handovers, schedule_within_budget
from swd_video.core.spectrum import AXES, Averaging, LatentSpectrum, Patch
from swd_video.cost.architecture import load_architecture
from swd_video.cost.networks import Transformer
from swd_video.data.latents import LatentSource

_GUESS = "grids are whole numbers of 1x2x2 latents, and costs are tokens"


@dataclass(frozen=True)
class EvaluationCost:
    """What an evaluation of a model costs on a grid.

    Attributes:
        function: from the grid.
        counted: what is counted.
        patch: what a grid must be a whole number of.
        guess: what of this is a guess, if anything.
        shift: the model's own, where it is known.
    """

    function: CostFunction
    counted: str
    patch: Patch
    guess: str | None
    shift: float | None = None


def find_cost(model: str | None, source: LatentSource) -> EvaluationCost:
    """The cost of the named model; else of the one that encoded a cache, where it can be found; else the tokens.

    Raises:
        ValueError: if the named model cannot be read.
    """
    name = model or source.model
    reason = "no model is known; name one with --model"
    if name is not None:
        try:
            return _transformer_cost(name, source)
        except ValueError as error:
            if model is not None:
                raise ValueError(f"--model: {error}") from None
            reason = f"the cache's model {name!r} cannot be read; name one with --model"
    patch = (1, 2, 2)
    counted = f"tokens of 1x2x2 latents ({reason})"
    tokens = Compression(patch=patch).tokens
    return EvaluationCost(lambda grid: float(tokens(grid)), counted, patch, f"{reason}: {_GUESS}")


def _transformer_cost(name: str, source: LatentSource) -> EvaluationCost:
    """Counted by passing shapes through the model's own transformer, whatever its family."""
    architecture = load_architecture(name)
    transformer = Transformer(architecture)
    spec, other = architecture.spec, None
    if source.channels != spec.latent_channels:
        other = (
            f"the latents have {source.channels} channels and those of {name} {spec.latent_channels}; they are another "
            "model's, with costs and a shift of its own"
        )
    return EvaluationCost(
        lambda grid: float(transformer.evaluation(grid).forward),
        f"FLOPs of the transformer of {name}",
        spec.compression.patch,
        other,
        architecture.model.noise_shift(source.size),
    )


def examine(
    spectrum: LatentSpectrum,
    cost: EvaluationCost,
    *,
    sigmas: Sequence[float],
    stages: int,
    budget: float,
    averaging: Averaging,
    shift: float,
) -> dict[str, Any]:
    """What `swd-video spectrum --json` prints of spectra; the budget is in evaluations at full size.

    Raises:
        ValueError: if no schedule meets the budget.
    """
    full = cost.function(spectrum.size)
    best = schedule_within_budget(
        spectrum, stages, budget * full, cost.function, cost.patch, averaging, shift
    )
    grids = {sigma: spectrum.smallest_grid(sigma, cost.patch, averaging) for sigma in sigmas}
    power = {axis: spectrum.along(axis).tolist() for axis in AXES} | {"radial": spectrum.radial().tolist()}
    return {
        "clips": spectrum.num_clips,
        "size": str(spectrum.size),
        "averaging": averaging,
        "shift": shift,
        "power": power,
        "lowest_sigmas": {axis: spectrum.lowest_sigmas(axis, averaging).tolist() for axis in AXES},
        "grids": [
            {
                "sigma": sigma,
                "steps_left": convert_sigma(sigma, shift, 1.0),
                "frames": grid.frames,
                "height": grid.height,
                "width": grid.width,
                "lost_over_noise": spectrum.lost_over_noise(grid, sigma),
            }
            for sigma, grid in grids.items()
        ],
        "schedule": {
            "stages": best.schedule.as_dict(),
            "budget": budget,
            "counted": cost.counted,
            "patch": "x".join(map(str, cost.patch)),
            "shift": best.shift,
            **check(spectrum, best.schedule, cost, averaging),
        },
    }


def check(
    spectrum: LatentSpectrum, schedule: ScaleSchedule, cost: EvaluationCost, averaging: Averaging
) -> dict[str, Any]:
    """What a schedule costs, in evaluations at full size, and whether its handovers lose what noise does not hide."""
    return {
        "cost": sum(map(cost.function, schedule.grids)) / cost.function(spectrum.size),
        "handovers": [
            {
                "grid": str(handover.grid),
                "sigma": handover.sigma,
                "needed": str(handover.needed),
                "hidden": handover.hidden,
                "lost_over_noise": handover.lost_over_noise,
            }
            for handover in check_handovers(spectrum, schedule, cost.patch, averaging)
        ],
    }
