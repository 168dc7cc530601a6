"""What a training step costs beside its bare passes, and what training keeps in memory."""

import gc
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from swd_video.core.randomness import SampleDraws
from swd_video.cost.process_memory import highest_bytes
from swd_video.cost.speed import Sampler, time_interleaved
from swd_video.models.lora import CRITIC, STUDENT, lora_parameters
from swd_video.objectives.objective import ClipPair
from swd_video.training.batch import MicroBatch
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig
from swd_video.training.precision import settle_precision
from swd_video.training.step import StageInputs, Stepper

GIB = 2**30


class RecordedDraws(SampleDraws):
    """Draws that are made once and then repeated, so that a timed pass makes none."""

    def __init__(self, draws: SampleDraws) -> None:
        self.generators, self.shared = draws.generators, draws.shared
        self._kept: list[Tensor] = []
        self._next = 0

    def rewound(self) -> "RecordedDraws":
        """The same from the start."""
        self._next = 0
        return self

    def normal_like(self, clips: Float[Tensor, "batch *clip"]) -> Float[Tensor, "batch *clip"]:
        """See `SampleDraws`."""
        return self._repeat(lambda: super(RecordedDraws, self).normal_like(clips))

    def uniform(self) -> Float[Tensor, " batch"]:
        """See `SampleDraws`."""
        return self._repeat(super().uniform)

    def _repeat(self, draw: Callable[[], Tensor]) -> Tensor:
        if self._next == len(self._kept):
            self._kept.append(draw())
        self._next += 1
        return self._kept[self._next - 1]


@dataclass(frozen=True)
class PreparedBatch:
    """A micro-batch with all that its passes read, made before they are timed."""

    batch: MicroBatch
    inputs: StageInputs
    draws: dict[str, RecordedDraws]


def measure_training(config: DistillConfig, steps: int, rounds: int) -> dict[str, Any]:
    """Measure a config's training in this process.

    Samples and checkpoints are left out. Each step and its passes run once to warm up; of their rounds the median
    counts.

    Raises:
        ValueError: if the config cannot be run.
    """
    train = config.train.model_copy(update={"sample_every": 0})
    with tempfile.TemporaryDirectory() as folder:
        config = settle_precision(config.model_copy(update={"train": train}), Path(folder))
        stepper = build_run(config, Path(folder)).stepper
        times = [_time_step(stepper, step, rounds) for step in range(steps)]
        memory = measure_memory(stepper)
    whole, bare, whole_cpu, bare_cpu = (sum(column) / steps for column in zip(*times, strict=True))
    return {
        "model": config.model,
        "kind": config.train.kind,
        "losses": list(stepper.objectives),
        "batch_size": config.train.batch_size,
        "mixed_precision": config.train.mixed_precision,
        "device": str(stepper.accelerator.device),
        "threads": torch.get_num_threads(),
        "steps": steps,
        "rounds": rounds,
        "step_seconds": whole,
        "bare_seconds": bare,
        "step_over_bare": whole / bare,
        "step_over_bare_of_processor_time": whole_cpu / bare_cpu,
        "memory": memory,
    }


def measure_memory(stepper: Stepper) -> dict[str, Any]:
    """What is alive between two steps, in GiB; weights that two networks share count once.

    `base_gib` are weights of networks without low-rank additions, `one_copy_gib` those of the teacher; on CUDA
    `peak_gib` is what tensors took at most, elsewhere what the process held at most, loading included.
    """
    roles, device = stepper.networks, stepper.accelerator.device
    networks = {id(network): network for network in (roles.model.transformer, roles.student)}
    weights = [weight for network in networks.values() for weight in _base_weights(network)]
    one_copy = _num_bytes(_base_weights(roles.model.transformer))
    additions = {
        "student": _num_bytes(lora_parameters(roles.student, STUDENT).values()),
        **{learner.name: _num_bytes(learner.parameters.values()) for learner in stepper.learners},
    }
    if additions["student"] == 0:
        additions.pop("student")
    return {
        "base_gib": _num_bytes(weights) / GIB,
        "one_copy_gib": one_copy / GIB,
        "base_copies": _num_bytes(weights) / one_copy,
        "additions_gib": {name: size / GIB for name, size in additions.items()},
        "alive_gib": _num_bytes(_living_tensors()) / GIB,
        "peak_gib": highest_bytes(device) / GIB,
        "peak_of": "tensors on the device" if device.type == "cuda" else "the process, loading included",
    }


def _time_step(stepper: Stepper, step: int, rounds: int) -> tuple[float, float, float, float]:
    """Medians: seconds of the whole step and of its bare passes, then processor seconds of both."""
    prepared = [
        prepare(stepper, batch)
        for update in range(stepper.num_updates)
        for part in range(stepper.division.num_stages)
        for batch in stepper.micro_batches(step, part, update)
    ]

    def bare() -> None:
        bare_passes(stepper, prepared)
        for optimizer in (*stepper.optimizers, *(learner.optimizer for learner in stepper.learners)):
            optimizer.zero_grad()

    samplers = {"whole": Sampler(lambda: stepper.take_step(step)), "bare": Sampler(bare)}
    timings = time_interleaved(samplers, rounds=rounds)
    whole_wall, bare_wall = (median(run.total for run in timings[name]) for name in samplers)
    whole_cpu, bare_cpu = (median(run.processor for run in timings[name]) for name in samplers)
    return whole_wall, bare_wall, whole_cpu, bare_cpu


def prepare(stepper: Stepper, batch: MicroBatch) -> PreparedBatch:
    """Read a micro-batch's clips and make its noise."""
    names = list(stepper.objectives) + [learner.name for learner in stepper.learners]
    draws = {name: RecordedDraws(stepper.draws(name, batch)) for name in names}
    return PreparedBatch(batch, stepper.inputs(batch), draws)


def bare_passes(stepper: Stepper, prepared: list[PreparedBatch]) -> None:
    """Every pass of a step, forward and backward, and nothing else."""
    roles = stepper.networks
    for one in prepared:
        seen = one.inputs
        # What a step takes from it is prepared already; its passes are part of the step all the same.
        stepper.own_previous(one.batch, seen.prompt_embeds)
        learns = one.batch.update == 0
        with stepper.autocast(), torch.set_grad_enabled(learns):
            predicted = roles.predict_x0(seen.noisy_latents, seen.stage, seen.prompt_embeds)
        clips = ClipPair(predicted, seen.target_x0, seen.prompt_embeds, paired=not seen.own)
        if learns:
            with stepper.autocast():
                losses = [
                    objective.weight * objective(roles, clips, one.draws[name].rewound())
                    for name, objective in stepper.objectives.items()
                    if objective.has_say(one.batch.stage_index)
                ]
            torch.stack(losses).sum().backward()
        for objective in stepper.objectives.values():
            learner = objective.learner
            if (
                learner is None
                or one.batch.update >= learner.updates
                or not objective.has_say(one.batch.stage_index)
            ):
                continue
            with stepper.autocast():
                loss = learner.loss(roles, clips.detached(), one.draws[learner.name].rewound())
            loss.backward()


def _base_weights(network: nn.Module) -> list[Tensor]:
    additions = {
        id(weight) for name in (STUDENT, CRITIC) for weight in lora_parameters(network, name).values()
    }
    return [weight for weight in network.parameters() if id(weight) not in additions]


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _living_tensors() -> list[Tensor]:
    gc.collect()
    # By type: asking some modules' lazy objects what they are would import them.
    found = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    real = [tensor for tensor in found if not tensor.is_meta and not isinstance(tensor, FakeTensor)]
    return [tensor for tensor in real if tensor.layout == torch.strided]
