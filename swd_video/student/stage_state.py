"""Where clips are between two stages: all that is needed to go on as if nothing had come between."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.sampling import Generators
from swd_video.core.schedule import ScaleSchedule


@dataclass(frozen=True)
class StageState:
    """Clips after a stage.

    Attributes:
        latents: clean, float32, on the grid of the stage that was done last.
        stages: how many are done, at least 1.
        generator: what the noise of the next stage is drawn from, of the kind that the first was drawn from: one for
            all clips, one for each, or None for torch's global state, which is not kept. A copy: to go on changes
            nothing here.
    """

    latents: Float[Tensor, "clips channels frames height width"]
    stages: int
    generator: Generators

    def split(self) -> list["StageState"]:
        """Each clip by itself; they must have a generator each."""
        generators = self._one_for_each()
        return [
            StageState(latents, self.stages, [generator])
            for latents, generator in zip(self.latents.split(1), generators, strict=True)
        ]

    @staticmethod
    def join(states: Sequence["StageState"]) -> "StageState":
        """Clips that are after the same stage, on the same grid, together; they must have a generator each."""
        (stages,) = {state.stages for state in states}
        generators = [generator for state in states for generator in state._one_for_each()]
        return StageState(torch.cat([state.latents for state in states]), stages, generators)

    def check_fits(self, schedule: ScaleSchedule) -> None:
        """Whether the stages of a schedule can go on from here.

        Raises:
            ValueError: if all of them are done, or the latents are on another grid.
        """
        if not 1 <= self.stages < len(schedule):
            raise ValueError(
                f"start: {self.stages} stages are done, expected 1 to {len(schedule) - 1} of {len(schedule)}."
            )
        grid = schedule[self.stages - 1].grid
        if tuple(self.latents.shape[2:]) != grid.as_tuple():
            got = "x".join(map(str, self.latents.shape[2:]))
            raise ValueError(
                f"start: got latents on a {got} grid, expected {grid}, that of stage {self.stages}. Go on at the size "
                "that was begun with."
            )

    def _one_for_each(self) -> Sequence[torch.Generator]:
        generators = self.generator
        assert isinstance(generators, Sequence), "clips that share a generator cannot be told apart"
        return generators


def copy_generators(generator: Generators) -> Generators:
    """Generators that give the same numbers from here on."""
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        return generator.clone_state()
    return [one.clone_state() for one in generator]
