"""What lies in a GPU's memory while a student trains, and what would make it fit where it does not.

It describes the trainer as it is: what trains, its gradients, optimizer and average in float32; the teacher's weights
in float32 or bfloat16; no text encoder and no VAE, which wait elsewhere; weights replicated on every GPU, or divided
among them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from swd_video.cost.step_cost import KeptBytes
from swd_video.cost.training_cost import Trainable

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
# Weight, gradient and the two moments of AdamW; no average over steps.
_OPPONENT_BYTES = 4 * FLOAT32_BYTES
Kind = Literal["full", "lora"]


@dataclass(frozen=True)
class TrainingSetup:
    """How a student is trained.

    Attributes:
        kind: all weights, or low-rank additions.
        batch_size: clips in a step, of all GPUs together.
        num_gpus: processes, one on each GPU.
        bf16: networks under bfloat16 autocast.
        muon: Muon for the matrices of blocks; else AdamW for all.
        checkpointing: keep only the tokens between blocks, and compute each block again.
        half_teacher: the weights that do not train have 16 bits; for additions only.
        sharded: weights, gradients, optimizer and average divided among the GPUs.
        micro_batch_size: the most clips at once on one GPU; None for all that fall to it.
        num_stages: stages drawn for a step, which divide its batch.
        group_size: clips of a prompt, which stay together.
    """

    kind: Kind
    batch_size: int
    num_gpus: int
    bf16: bool
    muon: bool = False
    checkpointing: bool = False
    half_teacher: bool = False
    sharded: bool = False
    micro_batch_size: int | None = None
    num_stages: int = 1
    group_size: int = 1

    @property
    def divides(self) -> bool:
        """Whether the GPUs can share the batch evenly."""
        return self.batch_size % (self.num_gpus * self.num_stages * self.group_size) == 0

    @property
    def clips_at_once(self) -> int:
        """On one GPU."""
        share = max(self.group_size, self.batch_size // (self.num_gpus * self.num_stages))
        return share if self.micro_batch_size is None else min(self.micro_batch_size, share)


@dataclass(frozen=True)
class TrainingSizes:
    """What memory follows from, for one kind of training in one precision.

    Attributes:
        num_parameters: of the transformer, or of both where there are two.
        trainable: weights that change.
        kept: what autograd keeps on the largest grid.
        critic: weights of the critic's additions, which are divided where the teacher's are.
        heads: weights of the discriminator, whole on every GPU.
    """

    num_parameters: int
    trainable: Trainable
    kept: KeptBytes
    critic: int = 0
    heads: int = 0


SizesOf = Callable[[TrainingSetup], TrainingSizes]
"""Sizes by kind and precision; counted when first asked for."""


def memory_parts(setup: TrainingSetup, sizes: TrainingSizes) -> dict[str, int]:
    """Bytes on one GPU at the start of a backward pass on the largest grid, by part.

    The student's or the critic's, whichever takes more: one is over when the other starts. Gradients are counted whole
    although they fill only while activations are freed: with accumulation both are there. Activations are those beside
    float32 weights; beside bfloat16 ones they never take more, and often less.
    """
    trainable = sizes.trainable.total
    shards = setup.num_gpus if setup.sharded else 1
    # Full training keeps teacher and student apart; additions share one copy.
    teacher_bytes = BFLOAT16_BYTES if setup.half_teacher else FLOAT32_BYTES
    weights = teacher_bytes * sizes.num_parameters + FLOAT32_BYTES * trainable
    replicated = setup.num_gpus > 1 and not setup.sharded
    return {
        "weights": weights // shards,
        "gradients": FLOAT32_BYTES * trainable // shards,
        # DistributedDataParallel averages copies of the gradients.
        "gradient_buckets": FLOAT32_BYTES * trainable if replicated else 0,
        "optimizer": FLOAT32_BYTES * _num_moments(sizes.trainable, setup.muon) // shards,
        "ema": FLOAT32_BYTES * trainable // shards,
        "learners": _OPPONENT_BYTES * (sizes.critic // shards + sizes.heads),
        **_activations(setup, sizes.kept),
    }


def _activations(setup: TrainingSetup, kept: KeptBytes) -> dict[str, int]:
    """What autograd keeps in the larger of the two backward passes; the other one's parts are 0."""
    graphs = (
        (kept.student_checkpointed, kept.teacher_checkpointed, kept.critic_checkpointed)
        if setup.checkpointing
        else (kept.student, kept.teacher, kept.critic)
    )
    student, teacher, critic = (graph.at(setup.clips_at_once) for graph in graphs)
    if critic > student + teacher:
        student, teacher = 0, 0
    else:
        critic = 0
    return {"activations": student, "teacher_features": teacher, "critic_activations": critic}


def fits(setup: TrainingSetup, sizes: TrainingSizes, available_bytes: float | int) -> bool:
    """Whether the parts together are no more than what a GPU has for them."""
    return sum(memory_parts(setup, sizes).values()) <= available_bytes


@dataclass(frozen=True)
class _Change:
    words: str
    same_gpus: bool
    apply: Callable[[TrainingSetup], TrainingSetup]


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


def what_would_fit(setup: TrainingSetup, sizes_of: SizesOf, available_bytes: float | int) -> list[Cure]:
    """The smallest sets of changes that make a training fit, those that need no more GPUs first.

    Returns:
        All sets of the least number of changes that suffices; if those need more GPUs, also the least that does
        without, where that exists. Empty where nothing tried helps.
    """
    changes = _changes(setup)
    cures: list[Cure] = []
    for count in range(1, len(changes) + 1):
        found = [
            cure
            for chosen in combinations(changes, count)
            if (cure := _try(setup, chosen, sizes_of, available_bytes)) is not None
        ]
        wanted = [cure for cure in found if cure.same_gpus] if cures else found
        cures += wanted
        if any(cure.same_gpus for cure in cures):
            break
    return sorted(cures, key=lambda cure: (not cure.same_gpus, len(cure.changes), cure.needed_bytes))


def _changes(setup: TrainingSetup) -> list[_Change]:
    changes = []
    if setup.kind == "full":
        changes.append(_Change("train.kind: lora", True, lambda old: replace(old, kind="lora")))
    if not setup.bf16:
        changes.append(_Change("train.mixed_precision: bf16", True, lambda old: replace(old, bf16=True)))
    if setup.clips_at_once > setup.group_size:
        changes.append(
            _Change(
                f"train.micro_batch_size: {setup.group_size}",
                True,
                lambda old: replace(old, micro_batch_size=old.group_size),
            )
        )
    if not setup.checkpointing:
        changes.append(
            _Change("train.gradient_checkpointing: true", True, lambda old: replace(old, checkpointing=True))
        )
    if not setup.half_teacher:
        changes.append(
            _Change("load.dtype: bfloat16", True, lambda old: replace(old, half_teacher=True)),
        )
    shards = setup.num_gpus if setup.num_gpus > 1 else 8
    changes.append(
        _Change(
            f"configs/accelerate/fsdp2.yaml on {shards} GPUs",
            shards == setup.num_gpus,
            lambda old: replace(old, sharded=True, num_gpus=shards),
        )
    )
    return changes


def _try(
    setup: TrainingSetup, chosen: tuple[_Change, ...], sizes_of: SizesOf, available_bytes: float | int
) -> Cure | None:
    changed = setup
    for change in chosen:
        changed = change.apply(changed)
    if changed.half_teacher and changed.kind == "full":
        return None
    if changed.sharded and (changed.muon or not changed.divides):
        return None
    needed = sum(memory_parts(changed, sizes_of(changed)).values())
    if needed > available_bytes:
        return None
    return Cure(tuple(change.words for change in chosen), all(change.same_gpus for change in chosen), needed)


def _num_moments(trainable: Trainable, muon: bool) -> int:
    # AdamW keeps two numbers for every weight, Muon one.
    return 2 * trainable.total - (trainable.block_matrices if muon else 0)


def latents_cache_bytes(cells: int, channels: int, prompt_numbers: int) -> Mapping[str, int]:
    """Bytes on disk in half precision, for each clip on all its grids and for each distinct caption.

    Args:
        cells: latent frames x height x width, summed over the grids.
        channels: of the latents.
        prompt_numbers: tokens x channels of an embedded prompt.
    """
    return {"clip": 2 * cells * channels, "caption": 2 * prompt_numbers}
