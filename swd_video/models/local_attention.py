"""Attention in windows, by rearrangement: a network's own attention is called with all windows of a size as a batch.

Dense kernels are enough, so it runs wherever the network does, forward and backward. Nothing is padded or masked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import Division, WindowsOfBlocks


class WindowedProcessor:
    """A diffusers processor of a self-attention, around another that it calls with windows in the place of clips."""

    def __init__(self, inner: Callable[..., Tensor], division: Division) -> None:
        self._inner, self._division = inner, division

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Float[Tensor, "batch tokens channels"],
        encoder_hidden_states: None,
        attention_mask: None,
        rotations: tuple[Tensor, Tensor],
    ) -> Float[Tensor, "batch tokens channels"]:
        """Attend; cosines and sines of the tokens are those of all clips, or of each."""
        division, batch = self._division, len(hidden_states)
        lengths = [count * tokens for count, tokens in division.groups]
        streams = [
            rows.index_select(1, division.order).split(lengths, dim=1) for rows in (hidden_states, *rotations)
        ]
        attended = []
        for (count, tokens), *parts in zip(division.groups, *streams, strict=True):
            windows, *turns = (
                part.expand(batch, *part.shape[1:]).reshape(batch * count, tokens, *part.shape[2:])
                for part in parts
            )
            output = self._inner(attn, windows, None, None, tuple(turns))
            attended.append(output.reshape(batch, count * tokens, -1))
        return torch.cat(attended, dim=1).index_select(1, division.back)


@contextmanager
def attending(processors: Mapping[Any, Any]) -> Iterator[None]:
    """Within the context these attentions run by these processors, and afterwards by those that they had."""
    before = processors_in(processors)
    try:
        _set(processors)
        yield
    finally:
        _set(before)


def processors_in(modules: Iterable[Any]) -> dict[Any, Any]:
    """The processors of those modules that are attentions."""
    return {module: module.processor for module in modules if "processor" in vars(module)}


def windowed_processors(
    attentions: Sequence[Any],
    windows_of: WindowsOfBlocks,
    grid: LatentSize,
    patch: Sequence[int],
    device: torch.device,
) -> dict[Any, WindowedProcessor]:
    """What makes the blocks of a network attend in windows, for `attending`."""
    divide = cache(lambda windows: windows.divide(grid, patch, device))
    divisions = {
        attention: divide(windows)
        for index, attention in enumerate(attentions)
        if (windows := windows_of(index)) is not None
    }
    # One window that holds all tokens is no division.
    return {
        attention: WindowedProcessor(attention.processor, division)
        for attention, division in divisions.items()
        if len(division.order) > division.groups[0][1]
    }


def _set(processors: Mapping[Any, Any]) -> None:
    for attention, processor in processors.items():
        attention.processor = processor
