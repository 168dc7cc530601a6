"""Temporal positions of short grids, spread over the range of the full one.

A rotary embedding counts latent frames: 11 frames that show the same seconds as 21 get the positions 0 to 10, as
if the clip were half as long. Spread, they get 0, 2, 4, ... 20, and a distance in time is the same distance in
position at every stage. What the transformer was trained with is the native count; which is better for a student
is to be measured.

Source: TPDiff: Temporal Pyramid Video Diffusion Model (arXiv 2503.09566).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from jaxtyping import Float
from torch import Tensor, nn


def position_factor(frames: int, full_frames: int | None) -> float:
    """By what the positions of a grid are multiplied: 1 for native ones, and where there is nothing to spread.

    Args:
        frames: of the grid.
        full_frames: of the grid whose range is to be spanned; None for native positions.
    """
    return 1.0 if full_frames is None or frames == 1 else (full_frames - 1) / (frames - 1)


@contextmanager
def rescaled_positions(rope: nn.Module, full_frames: int | None) -> Iterator[None]:
    """Within the context, a Wan rotary embedding spreads the frames of any grid over `full_frames`.

    A grid that has as many, or a single frame, keeps its numbers bit for bit.

    Args:
        rope: `transformer.rope`.
        full_frames: latent frames of the full grid; None changes nothing.
    """
    if full_frames is None:
        yield
        return
    hook = rope.register_forward_hook(partial(_spread, full_frames=full_frames))
    try:
        yield
    finally:
        hook.remove()


def _spread(
    rope: Any, inputs: tuple[Tensor, ...], rotations: tuple[Tensor, Tensor], *, full_frames: int
) -> tuple[Tensor, Tensor]:
    patch = rope.patch_size[0]
    frames, full_frames = inputs[0].shape[2] // patch, full_frames // patch
    factor = position_factor(frames, full_frames)
    if factor == 1:
        return rotations
    positions = torch.arange(frames, dtype=torch.float64, device="cpu") * factor
    cosine, sine = get_1d_rotary_pos_embed(
        rope.t_dim, positions, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64
    )
    return _with_time(rotations[0], cosine), _with_time(rotations[1], sine)


def _with_time(
    rotation: Float[Tensor, "1 tokens 1 channels"], of_frames: Float[Tensor, "frames time_channels"]
) -> Float[Tensor, "1 tokens 1 channels"]:
    """Put other values into the channels that turn with time, which come first."""
    frames, time_channels = of_frames.shape
    by_frame = rotation.reshape(1, frames, -1, rotation.shape[-1]).clone()
    by_frame[..., :time_channels] = of_frames.to(rotation).view(1, frames, 1, time_channels)
    return by_frame.reshape(rotation.shape)
