"""What one clip costs: every stage's transformer, the text encoder, and the VAE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import GraphFlops, KernelAttention, count_flops, count_graph

_SIGMA = 0.5  # costs the same as any other


@dataclass(frozen=True)
class StageCost:
    """One evaluation of the transformer for one clip.

    Attributes:
        sigma: noise level.
        grid: latent frames, height and width.
        tokens: of the transformer.
        flops: operations.
        attention_flops: those of them that are products of queries, keys and values.
    """

    sigma: float
    grid: LatentSize
    tokens: int
    flops: int
    attention_flops: int


@dataclass(frozen=True)
class SamplingCost:
    """One clip.

    Attributes:
        stages: in order.
        vae_decode_flops: latents on the target grid to pixels.
        vae_encode_flops: the way back, which training's latents go once.
        text_encoder_flops: one prompt, padding included.
    """

    stages: tuple[StageCost, ...]
    vae_decode_flops: int
    vae_encode_flops: int
    text_encoder_flops: int

    @property
    def transformer_flops(self) -> int:
        """All stages together."""
        return sum(stage.flops for stage in self.stages)


class TransformerCounter:
    """Counts evaluations of an architecture's transformer from small ones."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._small = architecture.small_transformers()
        self._counted: dict[LatentSize, GraphFlops] = {}

    def evaluation(self, grid: LatentSize) -> GraphFlops:
        """One clip, one evaluation, without gradients; each grid is counted once."""
        if grid not in self._counted:
            counted = [self._evaluate(network, grid) for network in self._small]
            self._counted[grid] = self._architecture.of_all_blocks(counted)
        return self._counted[grid]

    def _evaluate(self, network: torch.nn.Module, grid: LatentSize) -> GraphFlops:
        model, spec = self._architecture.model, self._architecture.spec
        latents = torch.empty(1, spec.latent_channels, *grid.as_tuple(), device="meta")
        prompt_embeds = torch.empty(1, spec.text_length, spec.text_dim, device="meta")
        with KernelAttention(), torch.no_grad():
            return count_graph(
                lambda: model.predict_velocity(latents, _SIGMA, prompt_embeds, transformer=network)
            )


def count_sampling(
    architecture: Architecture,
    schedule: ScaleSchedule,
    evaluation: Callable[[LatentSize], GraphFlops] | None = None,
) -> SamplingCost:
    """Count what a clip costs on a schedule.

    Args:
        architecture: the model.
        schedule: the stages.
        evaluation: gives the cost of one evaluation on a grid, where somebody counts it anyway.

    Raises:
        ValueError: if a grid of the schedule is not legal for the model.
    """
    tokens = schedule.tokens(architecture.spec.compression)
    evaluation = evaluation or TransformerCounter(architecture).evaluation
    stages = []
    for stage, number in zip(schedule, tokens, strict=True):
        cost = evaluation(stage.grid)
        stages.append(StageCost(stage.sigma, stage.grid, number, cost.forward, cost.attention))
    return SamplingCost(
        stages=tuple(stages),
        vae_decode_flops=count_decoding(architecture, schedule.target),
        vae_encode_flops=count_encoding(architecture, schedule.target),
        text_encoder_flops=count_text(architecture),
    )


def count_decoding(architecture: Architecture, grid: LatentSize) -> int:
    """Operations of the VAE from latents on a grid to pixels, one clip."""
    model, channels = architecture.model, architecture.spec.latent_channels

    def decode(frames: int) -> int:
        latents = torch.empty(1, channels, frames, grid.height, grid.width, device="meta")
        return count_flops(lambda: model.decode(latents))

    return _by_frames(decode, grid.frames, architecture.spec.compression.patch[0])


def count_encoding(architecture: Architecture, grid: LatentSize) -> int:
    """Operations of the VAE from pixels to latents on a grid, one clip."""
    model, compression = architecture.model, architecture.spec.compression

    def encode(frames: int) -> int:
        size = compression.pixel_size(LatentSize(frames, grid.height, grid.width))
        pixels = torch.empty(1, 3, *size.as_tuple(), device="meta")
        return count_flops(lambda: model.encode_video(pixels))

    return _by_frames(encode, grid.frames, compression.patch[0])


def count_text(architecture: Architecture) -> int:
    """Operations of the text encoders for one prompt; the padding is computed too."""
    flops = 0
    for name, length in architecture.model.text_tokens.items():
        tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
        flops += count_flops(partial(architecture.parts[name], input_ids=tokens))
    return flops


# Where no two of them cost alike, a clip is counted in full.
_FRAMES_TRIED = 4


def _by_frames(count: Callable[[int], int], frames: int, unit: int) -> int:
    """Count for growing numbers of frames until two more cost alike; all later ones then cost the same.

    So it is for causal VAEs that work frame by frame and remember the last ones. Others are counted in full.

    Args:
        count: costs of a number of frames.
        frames: how many there are.
        unit: what numbers of frames are multiples of.
    """
    counted: list[int] = []
    units = frames // unit
    for number in range(1, min(units, _FRAMES_TRIED) + 1):
        counted.append(count(number * unit))
        if (steps := _steps(counted)) and len(steps) >= 2 and steps[-1] == steps[-2]:
            return counted[-1] + (units - number) * steps[-1]
    return counted[-1] if units <= _FRAMES_TRIED else count(frames)


def _steps(counted: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(counted)]
