"""What lies in a GPU's memory while a student trains, and what would make it fit where it does not.

It describes the trainer as it is: what trains, its gradients, optimizer and average in float32; the teacher's weights
in float32 or bfloat16; no text encoder, and a VAE only where clips are decoded, which wait elsewhere; weights
replicated on every GPU, or divided among them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from swd_video.cost.step import Kind, Sizes
from swd_video.training.batch import divide_batch
from swd_video.training.config import DistillConfig, FullTrainConfig, LoraTrainConfig, TrainConfig
from swd_video.training.optimizers import MuonConfig

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2


@dataclass(frozen=True)
class Setup:
    """A training on so many GPUs.

    Attributes:
        config: how the student is trained.
        num_gpus: processes, one on each GPU.
        sharded: weights, gradients, optimizer and average divided among the GPUs.
    """

    config: DistillConfig
    num_gpus: int = 1
    sharded: bool = False

    @property
    def kind(self) -> Kind:
        """All weights, or low-rank additions."""
        return self.config.train.kind

    @property
    def bf16(self) -> bool:
        """Whether networks run under bfloat16 autocast."""
        return self.config.train.mixed_precision == "bf16"

    @property
    def muon(self) -> bool:
        """Whether Muon takes the matrices of blocks."""
        return isinstance(self.config.train.optimizer, MuonConfig)

    @property
    def teacher_bytes(self) -> int:
        """Of a weight that does not train."""
        return FLOAT32_BYTES if self.config.load.dtype == "float32" else BFLOAT16_BYTES

    @property
    def divides(self) -> bool:
        """Whether the GPUs can share the batch evenly, and each take its share in equal passes."""
        try:
            divide_batch(self.config.train, self.config.loss.group, self.num_gpus)
        except ValueError:
            return False
        return True

    @property
    def clips_at_once(self) -> int:
        """On one GPU."""
        train = self.config.train
        share = train.batch_size // (self.num_gpus * train.stages_per_step)
        share = max(self.config.loss.group, share)
        return share if train.micro_batch_size is None else min(train.micro_batch_size, share)

    def with_train(self, **keys: Any) -> "Setup":
        """The same with other keys of `train`."""
        return self._with(train=self.config.train.model_copy(update=keys))

    def of_kind(self, kind: Kind) -> "Setup":
        """The same with all weights trained, which are float32 then, or with low-rank additions."""
        setup = self
        if kind != self.kind:
            shared = {key: getattr(self.config.train, key) for key in TrainConfig.model_fields}
            train = LoraTrainConfig(**shared) if kind == "lora" else FullTrainConfig(**shared)
            setup = self._with(train=train)
        return setup if kind == "lora" else setup.with_dtype("float32")

    def with_dtype(self, dtype: str) -> "Setup":
        """The same with another precision of the weights that do not train."""
        return self._with(load=self.config.load.model_copy(update={"dtype": dtype}))

    def _with(self, **sections: Any) -> "Setup":
        return replace(self, config=self.config.model_copy(update=sections))


def memory_parts(setup: Setup, sizes: Sizes) -> dict[str, int]:
    """Bytes on one GPU at the start of a backward pass on the largest grid, by part.

    The student's or that of what learns beside it, whichever takes most: one is over when the other starts. Gradients
    are counted whole although they fill only while activations are freed: with accumulation both are there.
    Activations are those beside float32 weights; beside bfloat16 ones they never take more, and often less.
    """
    shards = setup.num_gpus if setup.sharded else 1
    # Full training keeps teacher and student apart; additions share one copy.
    weights = setup.teacher_bytes * sizes.teacher + FLOAT32_BYTES * sizes.trainable
    gradients = FLOAT32_BYTES * sizes.trainable // shards
    # AdamW keeps two numbers for every weight, Muon one.
    moments = 2 * sizes.trainable - (sizes.trainable_matrices if setup.muon else 0)
    clips = setup.clips_at_once
    stages = [(student.at(clips), features.at(clips)) for student, features in sizes.stages]
    student, features = max(stages, key=sum, default=(0, 0))
    learner = max((kept.at(clips) for kept in sizes.learners), default=0)
    if learner > student + features:
        student, features = 0, 0
    else:
        learner = 0
    return {
        "weights": weights // shards,
        "gradients": gradients,
        # DistributedDataParallel averages copies of the gradients.
        "gradient_buckets": 0 if setup.sharded or setup.num_gpus == 1 else gradients,
        "optimizer": FLOAT32_BYTES * moments // shards,
        "ema": gradients,
        # Weight, gradient and the two moments of AdamW; no average over steps.
        "learners": 4 * FLOAT32_BYTES * (sizes.critic // shards + sizes.heads),
        "frozen_networks": FLOAT32_BYTES * (sizes.vae + sizes.others),
        "activations": student,
        "feature_activations": features,
        "learner_activations": learner,
    }


@dataclass(frozen=True)
class Cure:
    """Changes that together make a training fit.

    Attributes:
        changes: in words, with the config key where there is one.
        same_gpus: whether the number of GPUs stays.
        needed_bytes: on one GPU afterwards.
    """

    changes: tuple[str, ...]
    same_gpus: bool
    needed_bytes: int


def what_would_fit(
    setup: Setup, sizes_of: Callable[[Setup], Sizes], available_bytes: float | int
) -> list[Cure]:
    """The smallest sets of changes that make a training fit, those that need no more GPUs first.

    Returns:
        All sets of the least number of changes that suffices; if those need more GPUs, also the least that does
        without, where that exists. Empty where nothing tried helps.
    """
    changes = _changes(setup)
    cures: list[Cure] = []
    for count in range(1, len(changes) + 1):
        tried = [_try(setup, chosen, sizes_of) for chosen in combinations(changes.items(), count)]
        found = [cure for cure in tried if cure is not None and cure.needed_bytes <= available_bytes]
        cures += [cure for cure in found if cure.same_gpus] if cures else found
        if any(cure.same_gpus for cure in cures):
            break
    return sorted(cures, key=lambda cure: (not cure.same_gpus, len(cure.changes), cure.needed_bytes))


_Change = Callable[[Setup], Setup]


def _changes(setup: Setup) -> dict[str, _Change]:
    """What may be tried, by the words for it."""
    changes: dict[str, _Change] = {}
    group = setup.config.loss.group
    if setup.kind == "full":
        changes["train.kind: lora"] = lambda old: old.of_kind("lora")
    if not setup.bf16:
        changes["train.mixed_precision: bf16"] = lambda old: old.with_train(mixed_precision="bf16")
    if setup.clips_at_once > group:
        changes[f"train.micro_batch_size: {group}"] = lambda old: old.with_train(micro_batch_size=group)
    if not setup.config.train.gradient_checkpointing:
        changes["train.gradient_checkpointing: true"] = lambda old: old.with_train(
            gradient_checkpointing=True
        )
    if setup.teacher_bytes == FLOAT32_BYTES:
        changes["load.dtype: bfloat16"] = lambda old: old.with_dtype("bfloat16")
    shards = setup.num_gpus if setup.num_gpus > 1 else 8
    changes[f"configs/accelerate/fsdp2.yaml on {shards} GPUs"] = lambda old: replace(
        old, sharded=True, num_gpus=shards
    )
    return changes


def _try(
    setup: Setup, chosen: tuple[tuple[str, _Change], ...], sizes_of: Callable[[Setup], Sizes]
) -> Cure | None:
    changed = setup
    for _, change in chosen:
        changed = change(changed)
    if changed.kind == "full" and changed.teacher_bytes != FLOAT32_BYTES:
        return None
    if changed.sharded and (changed.muon or not changed.divides):
        return None
    needed = sum(memory_parts(changed, sizes_of(changed)).values())
    return Cure(tuple(words for words, _ in chosen), changed.num_gpus == setup.num_gpus, needed)
