"""One optimizer step: draw a stage, make its training pair, compare, and move the student."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from swd_video.core.flow import add_noise
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws, keyed_choice
from swd_video.core.resize import Upsample
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.latent_cache import LatentBatch, LatentCache
from swd_video.models.fsdp import full_tensor
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair, Learner, Objective
from swd_video.training.batch import BatchDivision, MicroBatch
from swd_video.training.clip_order import ClipOrder
from swd_video.training.config import TrainConfig
from swd_video.training.finite import check_gradient, check_losses
from swd_video.training.optimizers import set_learning_rates

Seen = list[tuple[MicroBatch, ClipPair]]
"""What the student made of micro-batches."""


@dataclass(frozen=True)
class StageInputs:
    """A micro-batch as the student sees it, and what it should make of it.

    Attributes:
        noisy_latents: on the stage's grid.
        stage: says how noisy, and in which windows the student attends.
        target_x0: the true latents.
        prompt_embeds: of the clips.
        own: whether the student's own clips of the stages before are what it sees, and not the true ones.
    """

    noisy_latents: Float[Tensor, "batch channels frames height width"]
    stage: Stage
    target_x0: Float[Tensor, "batch channels frames height width"]
    prompt_embeds: Float[Tensor, "batch text_length text_dim"]
    own: bool


@dataclass
class StepReport:
    """What happened in a step, on all processes together.

    Attributes:
        stages: stage index, loss and seconds of every part of the batch.
        losses: mean of each objective that had a say, by name, before its weight.
        grad_norm: norm of the gradient before clipping.
        learners: loss of every network that learned beside the student, by name.
        seconds: the whole step.
    """

    stages: list[tuple[int, float, float]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    learners: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def training_pair(
    latents: dict[LatentSize, Tensor],
    schedule: ScaleSchedule,
    stage_index: int,
    noise: Tensor,
    upsample: Upsample,
    previous_x0: Tensor | None = None,
) -> tuple[Float[Tensor, "batch channels _ _ _"], Float[Tensor, "batch channels _ _ _"]]:
    """What the student sees at a stage, and what it should make of it.

    It sees what sampling will show it: the previous, smaller grid's latents (the true ones, made by shrinking pixels,
    or its own), upsampled to this grid and noised to this stage's sigma, with standard normal noise. At stage 0 sigma
    is 1: pure noise.

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
    return add_noise(upsample(previous_x0, stage.grid), noise, stage.sigma), target_x0


@dataclass
class Stepper:
    """Takes optimizer steps; holds all that a step reads or changes.

    Attributes:
        networks: teacher and student.
        objectives: what is trained on, the weighted sum of all, by name.
        schedule: the stages.
        clips: the training clips on every grid of the schedule.
        order: which of them come when; a micro-batch holds whole groups of it.
        optimizers: between them they hold every trainable parameter.
        ema: running average of the trainable parameters.
        accelerator: device, processes and gradient averaging.
        upsample: takes clean latents from a stage's grid to the next.
        train: the config's section.
        division: which clips of a step come together, on which process.
        seed: all draws follow from it, the step, and a clip's number within the step's batch.
    """

    networks: Networks
    objectives: Mapping[str, Objective]
    schedule: ScaleSchedule
    clips: LatentCache
    order: ClipOrder
    optimizers: Sequence[torch.optim.Optimizer]
    ema: EMAModel
    accelerator: Accelerator
    upsample: Upsample
    train: TrainConfig
    division: BatchDivision
    seed: int

    def __post_init__(self) -> None:
        self._parameters = self.networks.trainable_parameters()
        self._taught = [(part, part.learner) for part in self.objectives.values() if part.learner is not None]
        self.learners = [learner for _, learner in self._taught]
        self.num_updates = max((learner.updates for learner in self.learners), default=1)

    def take_step(self, step: int) -> StepReport:
        """Run forward and backward on the whole batch and change the student once, then what learns beside it.

        Raises:
            NonFiniteError: before the network concerned is changed, on all processes.
        """
        started = time.perf_counter()
        report = StepReport()
        seen: Seen = []
        for part in range(self.division.num_stages):
            seen += self._run_part(step, part, report)
        report.grad_norm = self._clip_gradient(step)
        set_learning_rates(self.optimizers, min(1.0, (step + 1) / max(1, self.train.lr_warmup_steps)))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.networks.weights_changed()
        self.ema.step(self._parameters.values())
        losses: dict[str, list[float]] = {}
        for update in range(self.num_updates):
            if update > 0:
                seen = self._new_clips(step, update)
            for objective, learner in self._taught:
                shown = [one for one in seen if objective.has_say(one[0].stage_index)]
                if shown and update < learner.updates:
                    losses.setdefault(learner.name, []).append(self._train_learner(learner, step, shown))
        report.learners = {name: sum(taken) / len(taken) for name, taken in losses.items()}
        report.seconds = time.perf_counter() - started
        return report

    def _run_part(self, step: int, part: int, report: StepReport) -> Seen:
        """The student's gradients from one stage."""
        started = time.perf_counter()
        batches, num_parts = self.micro_batches(step, part), self.division.num_stages
        stage_index = self.stage_of(step, part)
        asked = self._asked(stage_index)
        seen: Seen = []
        sums = torch.zeros(len(asked), device=self.accelerator.device)
        for number, batch in enumerate(batches):
            is_last = part == num_parts - 1 and number == len(batches) - 1
            # Gradients are averaged over processes once, in the last backward pass.
            with nullcontext() if is_last else self.accelerator.no_sync(self.networks.student_forward):
                clips = self.predict(batch)
                losses = self.compare(batch, clips)
                (_weighted(losses, asked) / (len(batches) * num_parts)).backward()
            sums += losses.detach()
            seen.append((batch, clips.detached()))
        # All processes see the same numbers, so that all stop where one has to.
        means = self._over_processes(sums / len(batches))
        values = dict(zip(asked, means.tolist(), strict=True))
        check_losses(step, stage_index, values)
        stages = [self.stage_of(step, other) for other in range(num_parts)]
        for name, value in values.items():
            num_said = sum(asked[name].has_say(stage) for stage in stages)
            report.losses[name] = report.losses.get(name, 0.0) + value / num_said
        loss = _weighted(means, asked).item()
        report.stages.append((stage_index, loss, time.perf_counter() - started))
        return seen

    def stage_of(self, step: int, part: int, update: int = 0) -> int:
        """Which stage a part of a step's batch trains; known before it is run."""
        weights, more = self.train.stage_weights or [1.0] * len(self.schedule), ("update", update)
        return keyed_choice(weights, self.seed, "stage", step, part, *(more if update else ()))

    def micro_batches(self, step: int, part: int, update: int = 0) -> list[MicroBatch]:
        """What this process has to do of a part, pass by pass."""
        stage_index = self.stage_of(step, part, update)
        samples = self.division.samples(part, self.accelerator.process_index)
        return [MicroBatch(step, part, stage_index, some, update) for some in samples]

    def predict(self, batch: MicroBatch) -> ClipPair:
        """The student's clips on a micro-batch, and the true ones; these for both where no objective wants others."""
        if not any(part.wants_prediction for part in self.objectives.values()):
            grid, device = self.schedule[batch.stage_index].grid, self.accelerator.device
            stored = self.read(batch, [grid])
            x0 = stored.latents[grid].to(device, torch.float32)
            return ClipPair(x0, x0, stored.prompt_embeds.to(device, torch.float32))
        seen = self.inputs(batch)
        with self.autocast():
            predicted_x0 = self.networks.predict_x0(seen.noisy_latents, seen.stage, seen.prompt_embeds)
        return ClipPair(predicted_x0, seen.target_x0, seen.prompt_embeds, paired=not seen.own)

    def inputs(self, batch: MicroBatch) -> StageInputs:
        """Read a micro-batch's clips and make what its stage sees of them."""
        index, device = batch.stage_index, self.accelerator.device
        stage = self.schedule[index]
        grids = list(dict.fromkeys((stage.grid, self.schedule[max(index - 1, 0)].grid)))
        stored = self.read(batch, grids)
        latents = {grid: stored.latents[grid].to(device, torch.float32) for grid in grids}
        noise = self.draws("noise", batch).normal_like(latents[stage.grid])
        prompt_embeds = stored.prompt_embeds.to(device, torch.float32)
        own = self.own_previous(batch, prompt_embeds)
        noisy_latents, target_x0 = training_pair(latents, self.schedule, index, noise, self.upsample, own)
        return StageInputs(noisy_latents, stage, target_x0, prompt_embeds, own is not None)

    def own_previous(
        self, batch: MicroBatch, prompt_embeds: Float[Tensor, "batch text_length text_dim"]
    ) -> Float[Tensor, "batch channels _ _ _"] | None:
        """What sampling gives at the stage before; None where a micro-batch does not start from it.

        Source: backward simulation, Improved Distribution Matching Distillation (arXiv 2405.14867), section 4.4.
        """
        share = self.train.backward_simulation
        chosen = keyed_choice((1 - share, share), self.seed, "own inputs", *batch.key, batch.part)
        if batch.stage_index == 0 or not chosen:
            return None

        def velocity(noisy_latents: Tensor, sigma: float, index: int) -> Tensor:
            return self.networks.predict_velocity(noisy_latents, self.schedule[index], prompt_embeds)

        with torch.no_grad(), self.autocast():
            return sample_scalewise(
                velocity,
                ScaleSchedule(self.schedule.stages[: batch.stage_index]),
                batch_size=len(prompt_embeds),
                channels=self.networks.model.spec.latent_channels,
                generator=self.draws("own noise", batch).generators,
                device=prompt_embeds.device,
                upsample=self.upsample,
            )

    def compare(self, batch: MicroBatch, clips: ClipPair) -> Float[Tensor, " asked"]:
        """Every objective with a say at a micro-batch's stage, before its weight; noise follows from the batch."""
        with self.autocast():
            # The first is `MmdObjective` of objectives/mmd.py, unless a config says otherwise.
            losses = {
                name: objective(self.networks, clips, self.draws(name, batch))
                for name, objective in self._asked(batch.stage_index).items()
            }
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.shape:
                got = (
                    f"a tensor of shape {tuple(loss.shape)}"
                    if isinstance(loss, Tensor)
                    else type(loss).__name__
                )
                raise ValueError(
                    f"loss.{name}: got {got}, expected a tensor of one number, the mean over clips."
                )
        return torch.stack([loss.float() for loss in losses.values()])

    def loss(self, batch: MicroBatch) -> Float[Tensor, ""]:
        """The student's loss on a micro-batch; its clips, stage and noise follow from the micro-batch alone."""
        return _weighted(self.compare(batch, self.predict(batch)), self._asked(batch.stage_index))

    def read(self, batch: MicroBatch, grids: list[LatentSize]) -> LatentBatch:
        """A micro-batch's clips on some grids, as they are stored."""
        size, group = self.division.batch_size, self.order.group_size
        first, last = batch.samples.start // group, batch.samples.stop // group
        start = (batch.step * self.num_updates + batch.update) * (size // group)
        indices = [clip for position in range(first, last) for clip in self.order.group(start + position)]
        return self.clips.batch(indices, grids)

    def draws(self, purpose: str, batch: MicroBatch) -> SampleDraws:
        """The random numbers of a micro-batch's clips for a purpose: "noise", or the name of a loss."""
        return SampleDraws(batch.samples, self.seed, purpose, *batch.key)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision in which networks run."""
        bf16 = self.train.mixed_precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bf16)

    def _asked(self, stage_index: int) -> dict[str, Objective]:
        return {name: part for name, part in self.objectives.items() if part.has_say(stage_index)}

    def _new_clips(self, step: int, update: int) -> Seen:
        """What the student makes by now of other clips and prompts, for the networks beside it to learn from."""
        learning = [part for part, learner in self._taught if update < learner.updates]
        parts = range(self.division.num_stages)
        made = (batch for part in parts for batch in self.micro_batches(step, part, update))
        with torch.no_grad():
            return [(b, self.predict(b)) for b in made if any(p.has_say(b.stage_index) for p in learning)]

    def _train_learner(self, learner: Learner, step: int, seen: Seen) -> float:
        # The student's loss may have left gradients in it.
        learner.optimizer.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        for batch, clips in seen:
            with self.autocast():
                loss = learner.loss(self.networks, clips, self.draws(learner.name, batch)) / len(seen)
            loss.backward()
            total += loss.detach()
        value = self._over_processes(total).item()
        check_losses(step, seen[-1][0].stage_index, {learner.name: value})
        gradients = []
        for weight in learner.parameters.values():
            if weight.grad is not None:
                weight.grad = self._over_processes(weight.grad)
                gradients.append(weight.grad)
        check_gradient(step, learner.name, float(full_tensor(get_total_norm(gradients))), learner.parameters)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        return value

    def _over_processes(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, which gradients of divided weights already are."""
        if self.accelerator.num_processes == 1 or isinstance(tensor, DTensor):
            return tensor
        mean: Tensor = self.accelerator.reduce(tensor, "mean")
        return mean

    def _clip_gradient(self, step: int) -> float:
        limit = math.inf if self.train.max_grad_norm is None else self.train.max_grad_norm
        norm = float(full_tensor(clip_grad_norm_(list(self._parameters.values()), limit)))
        check_gradient(step, "student", norm, self._parameters)
        return norm


def _weighted(losses: Float[Tensor, " asked"], asked: Mapping[str, Objective]) -> Float[Tensor, ""]:
    return (losses * losses.new_tensor([part.weight for part in asked.values()])).sum()
