"""One optimizer step: draw a stage, make its training pair, compare, and move the student."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor

from swd_video.core.flow import add_noise
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_choice, keyed_generator
from swd_video.core.resize import resize_latents
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.latent_cache import LatentBatch, LatentCache
from swd_video.training.clip_order import ClipOrder
from swd_video.training.objectives import Objective
from swd_video.training.opponents import ClipPair, Opponent
from swd_video.training.roles import Roles


class NonFiniteError(RuntimeError):
    """The loss or its gradient is nan or infinite; the student was not changed."""


@dataclass(frozen=True)
class StepSettings:
    """Numbers of a step that stay the same for the whole run.

    Attributes:
        seed: all draws follow from it, the step, the micro-batch and the rank.
        batch_size: clips in one micro-batch of one process.
        grad_accum: micro-batches in a step.
        stage_weights: how often each stage is drawn, relative to the others.
        lr_warmup_steps: steps over which learning rates rise linearly to what the optimizers were given.
        max_grad_norm: gradients are scaled down to this norm, if any.
        bf16: run the networks under bfloat16 autocast.
        own_inputs: share of the micro-batches in which stages after the first see what the student made itself of the
            stages before.
    """

    seed: int
    batch_size: int
    grad_accum: int
    stage_weights: tuple[float, ...]
    lr_warmup_steps: int = 0
    max_grad_norm: float | None = None
    bf16: bool = False
    own_inputs: float = 0.0


@dataclass
class StepReport:
    """What happened in a step, on this process.

    Attributes:
        stages: stage index, loss and seconds of every micro-batch.
        grad_norm: norm of the gradient before clipping.
        opponents: loss of every network that learns beside the student, by name.
        seconds: the whole step.
    """

    stages: list[tuple[int, float, float]] = field(default_factory=list)
    grad_norm: float = 0.0
    opponents: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def training_pair(
    latents: dict[LatentSize, Tensor],
    schedule: ScaleSchedule,
    stage_index: int,
    noise: Tensor,
    previous_x0: Tensor | None = None,
) -> tuple[Float[Tensor, "batch channels _ _ _"], Float[Tensor, "batch channels _ _ _"]]:
    """What the student sees at a stage, and what it should make of it.

    It sees what sampling will show it: the previous, smaller grid's latents (the true ones, made by shrinking pixels,
    or its own), upsampled to this grid and noised to this stage's sigma. At stage 0 sigma is 1: pure noise.

    Args:
        latents: the clips on every grid of the schedule.
        schedule: the stages.
        stage_index: which stage.
        noise: standard normal, on the stage's grid.
        previous_x0: the student's own clips of the previous stage, where it is to see these.

    Returns:
        (noisy latents, target latents), both on the stage's grid.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.1.
    """
    stage = schedule[stage_index]
    target_x0 = latents[stage.grid]
    if stage_index == 0:
        return noise, target_x0
    if previous_x0 is None:
        previous_x0 = latents[schedule[stage_index - 1].grid]
    upsampled = resize_latents(previous_x0, stage.grid)
    return add_noise(upsampled, noise, stage.sigma), target_x0


@dataclass
class Stepper:
    """Takes optimizer steps; holds all that a step reads or changes.

    Attributes:
        roles: teacher and student.
        objective: the loss.
        schedule: the stages.
        clips: the training clips on every grid of the schedule.
        order: which of them come when; a micro-batch holds whole groups of it.
        optimizers: between them they hold every trainable parameter; each group's "initial_lr" is its rate.
        ema: running average of the trainable parameters.
        accelerator: device, processes and gradient averaging.
        settings: numbers.
        opponents: networks that learn from the student's clips after each of its steps.
    """

    roles: Roles
    objective: Objective
    schedule: ScaleSchedule
    clips: LatentCache
    order: ClipOrder
    optimizers: Sequence[torch.optim.Optimizer]
    ema: EMAModel
    accelerator: Accelerator
    settings: StepSettings
    opponents: Sequence[Opponent] = ()

    def __post_init__(self) -> None:
        self._parameters = list(self.roles.trainable_parameters().values())

    def stage_of(self, step: int, micro_batch: int) -> int:
        """Which stage a micro-batch of this process trains; known before it is run."""
        settings = self.settings
        rank = self.accelerator.process_index
        return keyed_choice(settings.stage_weights, settings.seed, "stage", step, micro_batch, rank)

    def take_step(self, step: int) -> StepReport:
        """Run forward and backward `grad_accum` times and change the student once.

        Args:
            step: number of the step, from 0.

        Raises:
            NonFiniteError: before the student is changed.
        """
        started = time.perf_counter()
        report = StepReport()
        seen = []
        for micro_batch in range(self.settings.grad_accum):
            is_last = micro_batch == self.settings.grad_accum - 1
            with self._gradient_averaging(is_last):
                stage, clips = self._run_micro_batch(step, micro_batch)
            report.stages.append(stage)
            seen.append(clips)
        report.grad_norm = self._clip_gradient(step)
        self._set_learning_rate(step)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self._parameters)
        for opponent in self.opponents:
            report.opponents[opponent.name] = self._train_opponent(opponent, step, seen)
        report.seconds = time.perf_counter() - started
        return report

    def predict(self, step: int, micro_batch: int) -> ClipPair:
        """The student's clips on a micro-batch, and the true ones."""
        stage_index = self.stage_of(step, micro_batch)
        stage, device = self.schedule[stage_index], self.accelerator.device
        grids = dict.fromkeys((stage.grid, self.schedule[max(stage_index - 1, 0)].grid))
        batch = self._batch(step, micro_batch, list(grids))
        latents = {grid: batch.latents[grid].to(device, torch.float32) for grid in grids}
        prompt_embeds = batch.prompt_embeds.to(device, torch.float32)
        noise = torch.randn(latents[stage.grid].shape, generator=self._generator("noise", step, micro_batch))
        previous_x0 = self._own_previous(stage_index, prompt_embeds, step, micro_batch)
        noisy_latents, target_x0 = training_pair(
            latents, self.schedule, stage_index, noise.to(device), previous_x0
        )
        with self._autocast():
            predicted_x0 = self.roles.predict_x0(noisy_latents, stage.sigma, prompt_embeds)
        return ClipPair(predicted_x0, target_x0, prompt_embeds)

    def _own_previous(
        self, stage_index: int, prompt_embeds: Tensor, step: int, micro_batch: int
    ) -> Tensor | None:
        """What sampling gives at the stage before, for the share of micro-batches that starts from it.

        Source: backward simulation, Improved Distribution Matching Distillation (arXiv 2405.14867), section 4.4.
        """
        share = self.settings.own_inputs
        key = "own inputs", step, micro_batch, self.accelerator.process_index
        if stage_index == 0 or not keyed_choice((1 - share, share), self.settings.seed, *key):
            return None

        def velocity(noisy_latents: Tensor, sigma: float, _: int) -> Tensor:
            return self.roles.predict_velocity(noisy_latents, sigma, prompt_embeds)

        with torch.no_grad(), self._autocast():
            return sample_scalewise(
                velocity,
                ScaleSchedule(self.schedule.stages[:stage_index]),
                batch_size=len(prompt_embeds),
                channels=self.roles.model.spec.latent_channels,
                generator=self._generator("own noise", step, micro_batch),
                device=prompt_embeds.device,
            )

    def loss(self, step: int, micro_batch: int) -> Float[Tensor, ""]:
        """The student's loss on a micro-batch; its clips, stage and noise follow from the arguments alone."""
        return self._compare(self.predict(step, micro_batch), step, micro_batch)

    def _compare(self, clips: ClipPair, step: int, micro_batch: int) -> Tensor:
        with self._autocast():
            return self.objective(self.roles, clips, self._generator("objective", step, micro_batch))

    def _train_opponent(self, opponent: Opponent, step: int, seen: Sequence[ClipPair]) -> float:
        # The student's loss may have left gradients in it.
        opponent.optimizer.zero_grad()
        total = 0.0
        for micro_batch, clips in enumerate(seen):
            with self._autocast():
                loss = opponent.loss(self.roles, clips, self._generator(opponent.name, step, micro_batch))
            (loss / len(seen)).backward()
            total += loss.item() / len(seen)
        if not math.isfinite(total):
            raise NonFiniteError(
                f"step {step}: the loss of the {opponent.name} is {total}; stopped before its optimizer. Lower its "
                "learning rate."
            )
        if self.accelerator.num_processes > 1:
            for weight in opponent.parameters.values():
                weight.grad = self.accelerator.reduce(weight.grad, "mean")
        opponent.optimizer.step()
        opponent.optimizer.zero_grad()
        return total

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.settings.bf16)

    def _generator(self, purpose: str, step: int, micro_batch: int) -> torch.Generator:
        return keyed_generator(self.settings.seed, purpose, step, micro_batch, self.accelerator.process_index)

    def _run_micro_batch(self, step: int, micro_batch: int) -> tuple[tuple[int, float, float], ClipPair]:
        started = time.perf_counter()
        index = self.stage_of(step, micro_batch)
        clips = self.predict(step, micro_batch)
        loss = self._compare(clips, step, micro_batch)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(
                f"step {step}: the loss of stage {index + 1} is {value}; stopped before the optimizer. "
                "Lower train.lr, raise train.lr_warmup_steps, or set train.mixed_precision to null."
            )
        self.accelerator.backward(loss / self.settings.grad_accum)
        return (index, value, time.perf_counter() - started), clips.detached()

    def _batch(self, step: int, micro_batch: int, grids: list[LatentSize]) -> LatentBatch:
        groups, processes = self.settings.batch_size // self.order.group_size, self.accelerator.num_processes
        number = (step * self.settings.grad_accum + micro_batch) * processes + self.accelerator.process_index
        positions = range(number * groups, (number + 1) * groups)
        indices = [clip for position in positions for clip in self.order.group(position)]
        return self.clips.batch(indices, grids)

    def _gradient_averaging(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext() if is_last else self.accelerator.no_sync(self.roles.student_forward)

    def _clip_gradient(self, step: int) -> float:
        limit = self.settings.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self._parameters, math.inf if limit is None else limit)
        value = float(norm)
        if not math.isfinite(value):
            raise NonFiniteError(
                f"step {step}: the gradient's norm is {value}; stopped before the optimizer. "
                "Lower train.lr, raise train.lr_warmup_steps, or set train.mixed_precision to null."
            )
        return value

    def _set_learning_rate(self, step: int) -> None:
        share = min(1.0, (step + 1) / max(1, self.settings.lr_warmup_steps))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
