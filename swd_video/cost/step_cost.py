"""What a training step costs, loss by loss: operations for a clip of each stage, and what autograd keeps for it.

The student runs forward and backward. For each comparison of features the frozen teacher runs up to the deepest
compared block, once on the target without gradients and once on the prediction, with gradients back to its input.
Distribution matching asks teacher and critic for clips, without gradients, and then trains the critic. A discriminator
sees the teacher's features of the prediction, and then learns from those of both clips. Where they learn several times
in a step, the student runs forward once more for each time but the first. A student that starts from what it made
itself runs the stages before.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import GraphFlops, count_graph, count_kept, shapes_only, without_memory
from swd_video.cost.training_cost import (
    LoraShape,
    PerClip,
    TeacherCounter,
    Trainable,
    TrainingCounter,
    per_clip,
)

_NOTHING, _NO_FLOPS = PerClip(0, 0), GraphFlops(0, 0, 0)


@dataclass(frozen=True)
class LossShape:
    """Which passes a step makes besides the student's own.

    Attributes:
        compared_blocks: for each pair of runs of the teacher whose tokens are compared, the deepest block.
        critic: the additions of distribution matching's critic; None without it.
        guided: whether the teacher that distribution matching asks runs twice, for guidance.
        heads: a discriminator's, on the meta device, called with tokens and the numbers of them along frames, height
            and width; none without it.
        heads_block: the deepest of the blocks that the heads sit on.
        own_inputs: share of the stages after the first that start from the student's own clips.
        critic_updates: times that the critic learns in a step.
        heads_updates: likewise the discriminator.
    """

    compared_blocks: tuple[int, ...]
    critic: LoraShape | None = None
    guided: bool = False
    heads: tuple[nn.Module, ...] = ()
    heads_block: int = 0
    own_inputs: float = 0.0
    critic_updates: int = 1
    heads_updates: int = 1

    @property
    def new_clips(self) -> int:
        """Times that the student makes clips for them to learn from, beyond those that it learns from itself."""
        critic = self.critic_updates if self.critic is not None else 1
        return max(critic, self.heads_updates if self.heads else 1) - 1


@dataclass(frozen=True)
class StageTraining:
    """Operations for one clip of one stage.

    Attributes:
        parts: by what they are for, without gradient checkpointing.
        recomputed_flops: what gradient checkpointing runs once more.
    """

    parts: Mapping[str, float | int]
    recomputed_flops: int

    def with_checkpointing(self, checkpointing: bool) -> dict[str, float | int]:
        """The parts, what checkpointing adds among them; 0 where it is off."""
        return {**self.parts, "checkpointing_adds": self.recomputed_flops if checkpointing else 0}


@dataclass(frozen=True)
class KeptBytes:
    """What autograd keeps for the backward passes of a micro-batch; the critic's comes after the student's.

    Attributes:
        student: of the student's graph.
        teacher: of the graphs of the teacher's features, which the prediction's gradient goes through, heads of a
            discriminator included.
        student_checkpointed: of the student's, where only the tokens between blocks are kept, and one block
            is computed again at a time.
        teacher_checkpointed: of the teacher's, likewise; by the time the student's blocks are recomputed, only
            its own tokens between blocks may be left.
        critic: of the critic's graph, when it learns.
        critic_checkpointed: of the critic's, likewise.
    """

    student: PerClip
    teacher: PerClip
    student_checkpointed: PerClip
    teacher_checkpointed: PerClip
    critic: PerClip = _NOTHING
    critic_checkpointed: PerClip = _NOTHING


class SharedCounters:
    """Counts what is the same for every kind of student: the teacher's part, the critic and the discriminator.

    Args:
        architecture: the teacher.
        losses: what is trained on.

    Attributes:
        whole: all weights, as a copy of them would train; forward it is the teacher.
        compared: runs of the teacher for comparisons.
        critic: learns beside the student, where there is one.
        judged: the run of the teacher that a discriminator looks at, where there is one.

    Raises:
        ValueError: if a block does not exist, or a target of the critic matches no layer.
    """

    def __init__(self, architecture: Architecture, losses: LossShape) -> None:
        self.architecture, self.losses = architecture, losses
        self.whole = TrainingCounter(architecture, None)
        by_block = {block: TeacherCounter(architecture, block) for block in set(losses.compared_blocks)}
        self.compared = [by_block[block] for block in losses.compared_blocks]
        self.critic = None if losses.critic is None else TrainingCounter(architecture, losses.critic)
        self.judged = (
            TeacherCounter(architecture, losses.heads_block, "loss.gan.block") if losses.heads else None
        )

    @cached_property
    def critic_weights(self) -> int:
        """Number of weights of the critic's additions."""
        return 0 if self.critic is None else self.critic.trainable.total

    @cached_property
    def head_weights(self) -> int:
        """Number of weights of the discriminator."""
        return sum(weight.numel() for head in self.losses.heads for weight in head.parameters())

    def heads_flops(self, grid: LatentSize, *, to_clip: bool) -> GraphFlops:
        """The heads on one clip's tokens, and gradients of their weights.

        Args:
            grid: of the clip.
            to_clip: gradients of the tokens as well.
        """
        return count_graph(partial(self._logits, self.losses.heads, grid, 1, "meta", to_clip))

    def heads_kept(self, grid: LatentSize) -> PerClip:
        """What autograd keeps of the heads on clips' tokens; in float32 always."""
        if not self.losses.heads:
            return _NOTHING
        heads = [without_memory(copy.deepcopy(head)) for head in self.losses.heads]
        with shapes_only():
            return per_clip(
                lambda batch: count_kept(
                    partial(self._logits, heads, grid, batch, "cpu", True), nn.ModuleList(heads)
                )
            )

    def _logits(
        self, heads: Sequence[nn.Module], grid: LatentSize, batch: int, device: str, to_clip: bool
    ) -> Tensor:
        spec = self.architecture.spec
        along = [size // step for size, step in zip(grid.as_tuple(), spec.compression.patch, strict=True)]
        num_tokens = spec.compression.tokens(grid)
        logits: list[Tensor] = []
        for head in heads:
            tokens = torch.empty(batch, num_tokens, spec.hidden_size, device=device, requires_grad=to_clip)
            logits.append(head(tokens, tuple(along)).sum())
        return torch.stack(logits).sum()


class StepCounter:
    """Counts one kind of training.

    Args:
        shared: counts what is the same for every kind of student.
        lora: what the student adds to the teacher; None where it is a copy of all weights.

    Raises:
        ValueError: if a target of `lora` matches no layer.
    """

    def __init__(self, shared: SharedCounters, lora: LoraShape | None) -> None:
        self._shared = shared
        self.student = shared.whole if lora is None else TrainingCounter(shared.architecture, lora)

    @property
    def trainable(self) -> Trainable:
        """Number of the student's weights that training changes, in one transformer."""
        return self.student.trainable

    def stage(self, grid: LatentSize, before: Sequence[LatentSize] = ()) -> StageTraining:
        """Operations for one clip of a stage.

        Args:
            grid: the stage's.
            before: grids of the stages before it.
        """
        shared, losses, student = self._shared, self._shared.losses, self.student.flops(grid)
        teacher = [counter.flops(grid) for counter in shared.compared]
        judged, heads, learning = _NO_FLOPS, _NO_FLOPS, _NO_FLOPS
        if shared.judged is not None:
            judged, heads = shared.judged.flops(grid), shared.heads_flops(grid, to_clip=True)
            learning = shared.heads_flops(grid, to_clip=False)
        scores, critic = 0, _NO_FLOPS
        if shared.critic is not None:
            critic = shared.critic.flops(grid)
            scores = critic.forward + (1 + losses.guided) * shared.whole.flops(grid).forward
        teacher_forward = sum(flops.forward for flops in teacher)
        own_inputs = losses.own_inputs * sum(self.student.flops(small).forward for small in before)
        return StageTraining(
            parts={
                "own_inputs": own_inputs,
                "student_forward": student.forward,
                "student_backward": student.backward,
                "teacher_forward": 2 * teacher_forward,
                "teacher_backward": sum(flops.backward for flops in teacher),
                "dmd_scores": scores,
                "new_clips": losses.new_clips * (student.forward + own_inputs),
                "critic_training": losses.critic_updates * (critic.forward + critic.backward),
                "gan": judged.forward + judged.backward + heads.forward + heads.backward,
                # True clips and the student's.
                "discriminator_training": losses.heads_updates
                * 2
                * (judged.forward + learning.forward + learning.backward),
            },
            recomputed_flops=student.forward
            + teacher_forward
            + judged.forward
            + losses.critic_updates * critic.forward,
        )

    def kept(self, grid: LatentSize, *, bf16: bool) -> KeptBytes:
        """What autograd keeps for clips on a grid.

        Args:
            grid: the stage's.
            bf16: under bfloat16 autocast; else in float32.
        """
        shared = self._shared
        student = self.student.kept(grid, bf16=bf16)
        critic = (_NOTHING, _NOTHING) if shared.critic is None else shared.critic.kept(grid, bf16=bf16)
        seen = [*shared.compared, *([] if shared.judged is None else [shared.judged])]
        heads = shared.heads_kept(grid)
        return KeptBytes(
            student=student[0],
            teacher=sum((counter.kept(grid, bf16=bf16) for counter in seen), heads),
            student_checkpointed=student[1],
            teacher_checkpointed=sum((counter.kept_checkpointed(grid, bf16=bf16) for counter in seen), heads),
            critic=critic[0],
            critic_checkpointed=critic[1],
        )
