"""Networks that learn beside the student, from its clips: what they share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.randomness import SampleDraws
from swd_video.objectives.networks import Networks


@dataclass(frozen=True)
class ClipPair:
    """A micro-batch as losses see it: the student's clips and the true ones, on one grid.

    Attributes:
        predicted_x0: the student's clean latents.
        target_x0: the true latents.
        prompt_embeds: of both.
        paired: whether prediction and target are the same clips; else only their prompts are.
    """

    predicted_x0: Float[Tensor, "batch channels frames height width"]
    target_x0: Float[Tensor, "batch channels frames height width"]
    prompt_embeds: Float[Tensor, "batch text_length text_dim"]
    paired: bool = True

    def detached(self) -> "ClipPair":
        """The same without the way back to the student."""
        return replace(self, predicted_x0=self.predicted_x0.detach())


class Learner(ABC):
    """A network that is trained after every step of the student, by AdamW.

    Attributes:
        name: for checkpoints and logs.
        updates: how often after each step; on the step's clips first, then on clips that the student makes anew.
        parameters: what is trained, by name.
        optimizer: trains it.
    """

    def __init__(
        self, name: str, parameters: Mapping[str, nn.Parameter], lr: float, updates: int = 1
    ) -> None:
        self.name, self.updates = name, updates
        self._lr = lr
        self._train(parameters)

    def _train(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        # No momentum: what the student does changes from step to step.
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self._lr, betas=(0.0, 0.99), weight_decay=0.0
        )

    @abstractmethod
    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """What it is trained on; gradients reach `parameters` only.

        Args:
            networks: who the teacher is.
            clips: `detached()`.
            draws: gives noise and sigmas.
        """
