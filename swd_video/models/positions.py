"""Temporal positions of short grids, spread over the range of the full one.

A rotary embedding counts latent frames: 11 frames that show the same seconds as 21 get the positions 0 to 10, as
if the clip were half as long. Spread, they get 0, 2, 4, ... 20, and a distance in time is the same distance in
position at every stage. What the transformer was trained with is the native count; which is better for a student
is to be measured.

Source: TPDiff: Temporal Pyramid Video Diffusion Model (arXiv 2503.09566).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from jaxtyping import Float
from torch import Tensor, nn


def position_factor(frames: int, full_frames: int | None) -> float:
    """By what the positions of a grid are multiplied: 1 for native ones, and where there is nothing to spread."""
    return 1.0 if full_frames is None or frames == 1 else (full_frames - 1) / (frames - 1)


@contextmanager
def rescaled_positions(
    rope: nn.Module, full_frames: int | None, *, patch: int, channels: int, theta: float | int = 10000.0
) -> Iterator[None]:
    """Within the context, a transformer's rotary embedding spreads the frames of any grid over `full_frames`.

    A grid that has as many, or a single frame, keeps its numbers bit for bit.

    Args:
        rope: the module that turns latents (batch, channels, frames, height, width) into cosines and sines.
        full_frames: latent frames of the full grid; None changes nothing.
        patch: latent frames in a token.
        channels: of a head that turn with time; they come first.
        theta: base of the frequencies.
    """
    if full_frames is None:
        yield
        return

    def spread(
        _: nn.Module, inputs: tuple[Tensor, ...], rotations: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        frames = inputs[0].shape[2] // patch
        return spread_rotations(rotations, frames, full_frames // patch, channels, theta)

    hook = rope.register_forward_hook(spread)
    try:
        yield
    finally:
        hook.remove()


def spread_rotations(
    rotations: tuple[Tensor, Tensor],
    frames: int,
    full_frames: int | None,
    channels: int,
    theta: float | int = 10000.0,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a grid's tokens, its frames spread over those of the full one.

    Args:
        rotations: of all tokens, frame by frame; a token's channels come last, those of time first among them.
        frames: of tokens.
        full_frames: of tokens of the full grid; None for native positions.
        channels: that turn with time.
        theta: base of the frequencies.
    """
    factor = position_factor(frames, full_frames)
    if factor == 1:
        return rotations
    positions = torch.arange(frames, dtype=torch.float64, device="cpu") * factor
    cosine, sine = get_1d_rotary_pos_embed(
        channels, positions, theta, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64
    )
    return _with_time(rotations[0], cosine), _with_time(rotations[1], sine)


def _with_time(rotation: Tensor, of_frames: Float[Tensor, "frames time_channels"]) -> Tensor:
    """Put other values into the channels that turn with time."""
    frames, time_channels = of_frames.shape
    by_frame = rotation.reshape(frames, -1, rotation.shape[-1]).clone()
    by_frame[..., :time_channels] = of_frames.to(rotation).unsqueeze(1)
    return by_frame.reshape(rotation.shape)
