"""Who is teacher and who is student, and how the two share weights."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from swd_video.core.flow import x0_from_velocity
from swd_video.models.base import VideoModel
from swd_video.models.fsdp import divide_weights, put_away, whole
from swd_video.models.lora import (
    CRITIC,
    STUDENT,
    active_lora,
    add_lora,
    lora_parameters,
    lora_state_dict,
    switch_lora,
)


class Roles(ABC):
    """A teacher that never changes and a student that starts as its equal.

    Both stay in evaluation mode: dropout would make student and teacher differ for no reason.

    Attributes:
        model: the teacher's adapter: text encoder, VAE, and how its transformer is called.
        student: the network that trains.
        student_forward: what is called for a training prediction: `student`, or the wrapper around it that
            averages gradients over processes.
    """

    def __init__(self, model: VideoModel, student: nn.Module) -> None:
        self.model = model
        self.student = student
        self.student_forward = student
        self._student_class = type(student)

    @abstractmethod
    def teacher(self) -> AbstractContextManager[nn.Module]:
        """A context that gives the teacher's network; only inside it does that network act as the teacher."""

    @abstractmethod
    def lora_state_dict(self) -> dict[str, Tensor] | None:
        """The student's additions under diffusers' keys; None where the student is a whole network."""

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name, always in the same order."""
        return {name: weight for name, weight in self.student.named_parameters() if weight.requires_grad}

    def divide(self, device: torch.device) -> None:
        """Divide the weights of all networks among the processes, after everything is added to them."""
        for network in dict.fromkeys((self.student, self.model.transformer)):
            divide_weights(network, self.model.transformer_blocks(network), device)

    def weights_changed(self) -> None:
        """To be called after every change of the student's weights, by an optimizer or by hand."""
        put_away(self.student)

    def whole_student(self) -> nn.Module:
        """The student's network; a copy on the CPU where its weights are divided, made by all processes together."""
        state = self.student.state_dict()
        if not any(isinstance(weight, DTensor) for weight in state.values()):
            return self.student
        gathered = {name: whole(weight).cpu() for name, weight in state.items()}
        student: Any = self.student
        with torch.device("meta"):
            copied: nn.Module = cast(Any, self._student_class).from_config(student.config)
        copied.load_state_dict(gathered, assign=True)
        return copied

    def add_critic(self, rank: int, targets: Sequence[str]) -> dict[str, nn.Parameter]:
        """Give the teacher's weights a second set of low-rank additions, the critic's, and return them by name."""
        add_lora(self.model.transformer, rank, targets, CRITIC)
        return self.critic_parameters()

    def critic_parameters(self) -> dict[str, nn.Parameter]:
        """The critic's additions by name; empty before `add_critic`."""
        return lora_parameters(self.model.transformer, CRITIC)

    @contextmanager
    def critic(self) -> Iterator[nn.Module]:
        """A context that gives the network with the critic's additions on, after `add_critic`."""
        with active_lora(self.model.transformer, CRITIC):
            yield self.model.transformer

    def predict_velocity(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: float,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The student's velocity, for sampling: one process may call it without the others."""
        return self.model.predict_velocity(noisy_latents, sigma, prompt_embeds, transformer=self.student)

    def predict_x0(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: float,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The student's guess at the clean latents, for training: all processes call it together."""
        velocity = self.model.predict_velocity(
            noisy_latents, sigma, prompt_embeds, transformer=self.student_forward
        )
        return x0_from_velocity(noisy_latents, velocity, sigma)

    def features(
        self,
        whose: Literal["teacher", "critic"],
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Float[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        blocks: Sequence[int],
    ) -> dict[int, Float[Tensor, "batch tokens hidden"]]:
        """Tokens after blocks of the teacher, or of the critic after `add_critic`.

        Gradients reach `noisy_latents` but no weight of the teacher's own; those that reach the critic's additions it
        throws away, as all that are not from its own loss.
        """
        with self.teacher() if whose == "teacher" else self.critic() as network:
            tokens = self.model.features(noisy_latents, sigma, prompt_embeds, blocks, transformer=network)
        return dict(zip(blocks, tokens, strict=True))


class FullRoles(Roles):
    """The student is a copy of all the teacher's weights."""

    def __init__(self, model: VideoModel) -> None:
        model.transformer.requires_grad_(False).eval()
        super().__init__(model, copy.deepcopy(model.transformer).requires_grad_(True))

    @contextmanager
    def teacher(self) -> Iterator[nn.Module]:
        """A context that gives the teacher's network, without a critic's additions."""
        with active_lora(self.model.transformer, None):
            yield self.model.transformer

    def lora_state_dict(self) -> dict[str, Tensor] | None:
        """None: the student is a whole network."""
        return None


class LoraRoles(Roles):
    """One copy of the weights: with low-rank additions the student, without them the teacher."""

    def __init__(self, model: VideoModel, rank: int, targets: Sequence[str]) -> None:
        model.transformer.eval()
        add_lora(model.transformer, rank, targets)
        super().__init__(model, model.transformer)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The student's additions."""
        return lora_parameters(self.student)

    def add_critic(self, rank: int, targets: Sequence[str]) -> dict[str, nn.Parameter]:
        """Add the critic's additions and turn the student's on again."""
        added = super().add_critic(rank, targets)
        switch_lora(self.student, STUDENT)
        return added

    @contextmanager
    def teacher(self) -> Iterator[nn.Module]:
        """A context that gives the shared network with its additions off."""
        with active_lora(self.student, None):
            yield self.student

    def lora_state_dict(self) -> dict[str, Tensor] | None:
        """The additions under diffusers' keys, whole; where they are divided all processes call it together."""
        return {name: whole(weight) for name, weight in lora_state_dict(self.student).items()}
