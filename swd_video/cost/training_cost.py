"""What one network costs in training, as student, as critic or as teacher: operations, and what autograd keeps.

The counted calls are those of the trainer. `step_cost.py` says how often a step makes them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from swd_video.core.flow import x0_from_velocity
from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import (
    GraphFlops,
    KernelAttention,
    count_graph,
    count_kept,
    shapes_only,
    without_memory,
)
from swd_video.models.lora import add_lora

_SIGMA = 0.5  # costs the same as any other


@dataclass(frozen=True)
class LoraShape:
    """Rank of the low-rank additions, and the linear layers that get one."""

    rank: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class PerClip:
    """Bytes that do not depend on the batch (casts of weights, mostly), and bytes for every clip in it."""

    fixed: int
    clip: int

    def at(self, batch_size: int) -> int:
        """Bytes of a batch."""
        return self.fixed + self.clip * batch_size

    def __add__(self, other: "PerClip") -> "PerClip":
        """Both together."""
        return PerClip(self.fixed + other.fixed, self.clip + other.clip)


@dataclass(frozen=True)
class Trainable:
    """Number of weights that training changes.

    Attributes:
        total: all of them.
        block_matrices: those of them in matrices of blocks, which Muon takes.
    """

    total: int
    block_matrices: int


class TeacherCounter:
    """Counts the frozen teacher's runs up to a block whose tokens are looked at.

    Args:
        architecture: the teacher.
        block: from 0.
        key: of the config that names the block, for messages.

    Raises:
        ValueError: if there is no such block.
    """

    def __init__(self, architecture: Architecture, block: int, key: str = "loss.mmd.block") -> None:
        if not 0 <= block < architecture.spec.num_blocks:
            raise ValueError(
                f"{key}: {block} does not exist; {architecture.name} has blocks 0 to "
                f"{architecture.spec.num_blocks - 1}."
            )
        self._architecture = architecture
        self._block = block
        two_of_each = [2] * len(architecture.block_counts)
        self._network = architecture.transformer(*two_of_each)
        self._fake_network = without_memory(architecture.transformer(*two_of_each))
        self._small_blocks = range(sum(two_of_each))
        self._flops: dict[LatentSize, GraphFlops] = {}
        self._kept: dict[tuple[LatentSize, bool], PerClip] = {}

    def flops(self, grid: LatentSize) -> GraphFlops:
        """Tokens of one clip, and gradients from them to its latents."""
        if grid not in self._flops:
            with KernelAttention():
                counted = [
                    count_graph(partial(self._tokens, self._network, block, grid, 1, "meta"))
                    for block in self._small_blocks
                ]
            self._flops[grid] = self._architecture.up_to_block(counted, self._block)
        return self._flops[grid]

    def kept(self, grid: LatentSize, *, bf16: bool) -> PerClip:
        """What autograd keeps of that."""

        def count(block: int, batch: int) -> int:
            run = partial(self._tokens, self._fake_network, block, grid, batch)
            with training_precision(bf16):
                return count_kept(run, self._fake_network)

        if (grid, bf16) not in self._kept:
            counted = [per_clip(partial(count, block)) for block in self._small_blocks]
            self._kept[grid, bf16] = self._architecture.up_to_block(counted, self._block)
        return self._kept[grid, bf16]

    def kept_checkpointed(self, grid: LatentSize, *, bf16: bool) -> PerClip:
        """What it keeps where that is only the tokens between blocks."""
        between = _tokens_bytes(self._architecture, self._fake_network, grid, bf16=bf16)
        return PerClip(0, (self._block + 1) * between)

    def _tokens(
        self, network: nn.Module, block: int, grid: LatentSize, batch: int, device: str = "cpu"
    ) -> Tensor:
        return _tokens(self._architecture, network, block, grid, batch, device)


class TrainingCounter:
    """Counts a network that predicts velocities and learns.

    Args:
        architecture: the teacher, which it starts as.
        lora: what it adds to the teacher's weights; None where it is a copy of all of them.

    Raises:
        ValueError: if a target of `lora` matches no layer.
    """

    def __init__(self, architecture: Architecture, lora: LoraShape | None) -> None:
        self._architecture, self._lora = architecture, lora
        self._students = _students(architecture, lora)
        self._flops: dict[LatentSize, GraphFlops] = {}

    @property
    def trainable(self) -> Trainable:
        """Number of weights of one transformer that training changes."""
        return self._architecture.of_all_blocks([_trainable(student) for student in self._students])

    def flops(self, grid: LatentSize) -> GraphFlops:
        """A prediction for one clip, and gradients of what learns; each grid is counted once."""
        if grid not in self._flops:
            with KernelAttention():
                counted = [
                    count_graph(partial(self._predict, student, grid, 1, "meta"))
                    for student in self._students
                ]
            self._flops[grid] = self._architecture.of_all_blocks(counted)
        return self._flops[grid]

    def kept(self, grid: LatentSize, *, bf16: bool) -> tuple[PerClip, PerClip]:
        """What autograd keeps for clips on a grid.

        Args:
            grid: the stage's.
            bf16: under bfloat16 autocast; else in float32.

        Returns:
            (all of it, what is left of it where only the tokens between blocks are kept, and one block is computed
            again at a time).
        """
        students = [without_memory(student) for student in _students(self._architecture, self._lora)]
        counted = [self._kept_by(student, grid, bf16) for student in students]
        between = _tokens_bytes(self._architecture, students[0], grid, bf16=bf16)
        # One block of every kind, although only one block at all is recomputed at a time.
        one, more_blocks = counted[0], self._architecture.spec.num_blocks - len(counted) + 1
        return (
            self._architecture.of_all_blocks(counted),
            PerClip(one.fixed, one.clip + more_blocks * between),
        )

    def _kept_by(self, student: nn.Module, grid: LatentSize, bf16: bool) -> PerClip:
        with training_precision(bf16):
            return per_clip(lambda batch: count_kept(lambda: self._predict(student, grid, batch), student))

    def _predict(self, student: nn.Module, grid: LatentSize, batch: int, device: str = "cpu") -> Tensor:
        noisy_latents, prompt_embeds = _inputs(self._architecture, grid, batch, device)
        velocity = self._architecture.model.predict_velocity(
            noisy_latents, _SIGMA, prompt_embeds, transformer=student
        )
        return x0_from_velocity(noisy_latents, velocity, _SIGMA)


def _tokens(
    architecture: Architecture,
    network: nn.Module,
    block: int,
    grid: LatentSize,
    batch: int = 1,
    device: str = "cpu",
) -> Tensor:
    noisy_latents, prompt_embeds = _inputs(architecture, grid, batch, device)
    (tokens,) = architecture.model.features(
        noisy_latents.requires_grad_(), _SIGMA, prompt_embeds, blocks=(block,), transformer=network
    )
    return tokens


def _tokens_bytes(
    architecture: Architecture, fake_network: nn.Module, grid: LatentSize, *, bf16: bool
) -> int:
    """Size of the tokens between two blocks, for one clip."""
    with training_precision(bf16), torch.no_grad():
        tokens = _tokens(architecture, fake_network, 0, grid)
    return tokens.numel() * tokens.element_size()


def _inputs(architecture: Architecture, grid: LatentSize, batch: int, device: str) -> tuple[Tensor, Tensor]:
    spec = architecture.spec
    latents = torch.empty(batch, spec.latent_channels, *grid.as_tuple(), device=device)
    return latents, torch.empty(batch, spec.text_length, spec.text_dim, device=device)


def per_clip(count: Callable[[int], int]) -> PerClip:
    """Bytes as they grow from one clip to two; `count` takes a number of clips."""
    one, two = count(1), count(2)
    return PerClip(2 * one - two, two - one)


@contextmanager
def training_precision(bf16: bool) -> Iterator[None]:
    """The context in which shapes pass through networks as tensors do in training."""
    with shapes_only(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        yield


def _students(architecture: Architecture, lora: LoraShape | None) -> list[nn.Module]:
    networks = architecture.small_transformers()
    for network in networks:
        if lora is None:
            network.requires_grad_(True)
        else:
            with torch.device("meta"):
                add_lora(network, lora.rank, lora.targets)
    return networks


def _trainable(student: nn.Module) -> Trainable:
    weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    matrices = [weight for name, weight in weights.items() if weight.ndim == 2 and "blocks." in name]
    return Trainable(
        sum(weight.numel() for weight in weights.values()), sum(weight.numel() for weight in matrices)
    )
