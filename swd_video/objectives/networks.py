"""The networks of a training by role, and how they share weights."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from swd_video.core.flow import x0_from_velocity
from swd_video.core.schedule import Stage
from swd_video.models.base import VideoModel
from swd_video.models.fsdp import full_tensor, reshard, shard_network
from swd_video.models.lora import (
    CRITIC,
    STUDENT,
    active_lora,
    add_lora,
    lora_parameters,
    lora_state_dict,
    switch_lora,
)


class Networks:
    """A teacher, a student that starts as its equal and, once it is added, the critic that follows the student.

    All stay in evaluation mode: dropout would make student and teacher differ for no reason.

    Args:
        model: the teacher's adapter: text encoder, VAE, and how its transformer is called.
        student: the network that trains. Where it is the teacher's own, it is the student with its low-rank additions,
            and the teacher without.

    Attributes:
        student_forward: what is called for a training prediction: `student`, or the wrapper around it that
            averages gradients over processes.
    """

    def __init__(self, model: VideoModel, student: nn.Module) -> None:
        self.model = model
        self.student = student
        self.student_forward = student
        self._student_class = type(student)
        self._has_additions = bool(lora_parameters(student))

    @classmethod
    def with_copy(cls, model: VideoModel) -> "Networks":
        """The student is a copy of all the teacher's weights."""
        model.transformer.requires_grad_(False).eval()
        return cls(model, copy.deepcopy(model.transformer).requires_grad_(True))

    @classmethod
    def with_lora(cls, model: VideoModel, rank: int, targets: Sequence[str]) -> "Networks":
        """One copy of the weights: with low-rank additions the student, without them the teacher."""
        model.transformer.eval()
        add_lora(model.transformer, rank, targets)
        return cls(model, model.transformer)

    @classmethod
    def to_adapt(cls, model: VideoModel) -> "Networks":
        """All of the teacher's own weights train: there is one copy, and it is nobody's student."""
        return cls(model, model.transformer.eval().requires_grad_(True))

    @contextmanager
    def teacher(self) -> Iterator[nn.Module]:
        """A context that gives the teacher's network; only inside it does that network act as the teacher."""
        with active_lora(self.model.transformer, None):
            yield self.model.transformer

    def lora_state_dict(self) -> dict[str, Tensor] | None:
        """The student's additions under diffusers' keys, whole; None where the student is a whole network.

        Where weights are divided all processes call it together.
        """
        if not self._has_additions:
            return None
        return {name: full_tensor(weight) for name, weight in lora_state_dict(self.student).items()}

    def trained_weights(self) -> ModelMixin | dict[str, Tensor]:
        """What was trained, whole: a network or additions; all processes call it together where weights are divided."""
        additions = self.lora_state_dict()
        return cast(ModelMixin, self.whole_student()) if additions is None else additions

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name, always in the same order."""
        if self._has_additions:
            return lora_parameters(self.student)
        return {name: weight for name, weight in self.student.named_parameters() if weight.requires_grad}

    def divide(self, device: torch.device) -> None:
        """Divide the weights of all networks among the processes, after everything is added to them."""
        for network in dict.fromkeys((self.student, self.model.transformer)):
            shard_network(network, self.model.transformer_blocks(network), device)

    def weights_changed(self) -> None:
        """To be called after every change of the student's weights, by an optimizer or by hand."""
        reshard(self.student)

    def whole_student(self) -> nn.Module:
        """The student's network; a copy on the CPU where its weights are divided, made by all processes together."""
        state = self.student.state_dict()
        if not any(isinstance(weight, DTensor) for weight in state.values()):
            return self.student
        gathered = {name: full_tensor(weight).cpu() for name, weight in state.items()}
        student: Any = self.student
        with torch.device("meta"):
            copied: nn.Module = cast(Any, self._student_class).from_config(student.config)
        copied.load_state_dict(gathered, assign=True)
        return copied

    def add_critic(self, rank: int, targets: Sequence[str]) -> None:
        """Give the teacher's weights a second set of low-rank additions, the critic's."""
        add_lora(self.model.transformer, rank, targets, CRITIC)
        if self._has_additions:
            switch_lora(self.student, STUDENT)

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
        stage: Stage,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The student's velocity, for sampling: one process may call it without the others."""
        return self._run_student(self.student, noisy_latents, stage, prompt_embeds)

    def predict_x0(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        stage: Stage,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The student's guess at the clean latents, for training: all processes call it together."""
        velocity = self._run_student(self.student_forward, noisy_latents, stage, prompt_embeds)
        return x0_from_velocity(noisy_latents, velocity, stage.sigma)

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

    def _run_student(
        self, network: nn.Module, noisy_latents: Tensor, stage: Stage, prompt_embeds: Tensor
    ) -> Tensor:
        # Alone among the networks it attends in the stage's windows.
        return self.model.predict_velocity(
            noisy_latents, stage.sigma, prompt_embeds, transformer=network, attention=stage.attention
        )
