"""A small network that takes latents to pixels in place of a VAE's decoder, a few frames at a time.

All of it are convolutions over single frames, in which every block also sees the frame before, so a clip is decoded in
memory that does not grow with its length. Time grows by channels: one frame becomes several, each with a part of them.
The first latent frame holds one picture where others hold several, so what it grows into is cut to the last.

Source: the layout is that of TAEHV (https://github.com/madebyollin/taehv).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from swd_video.core.grid import Compression
from swd_video.core.network_file import read_network, write_network

_KIND = "decoder"
_CELLS_AT_ONCE = 8_000
"""Latents of a batch that are decoded in one piece: enough to keep a device busy."""


@dataclass(frozen=True)
class DecoderLayout:
    """The shape of a decoder.

    Attributes:
        channels: of the latents.
        widths: channels of each level; a level works on a finer grid than the one before.
        blocks: of each level.
        growth: from each level to the next: into how many frames, and how many rows and columns, a cell grows.
        patch: frames, rows and columns of pixels that a cell of the last level ends as.
        trims_late: whether surplus frames at the start are dropped from the pixels alone; else as early as they are.
        slope: of the activation below zero.
        activates_first: whether blocks activate what they read and add to what came in, unchanged (two convolutions);
            else they activate the sum (three).
        largest_latent: what latents are squeezed into, on both sides of 0; None takes them as they are.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    growth: tuple[tuple[int, int], ...]
    patch: tuple[int, int, int]
    trims_late: bool = False
    slope: float = 0.0
    activates_first: bool = False
    largest_latent: float | None = None

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.blocks) == len(self.growth) + 1:
            raise ValueError(
                f"got {len(self.widths)} widths, {len(self.blocks)} blocks and {len(self.growth)} growths, expected as "
                "many widths as blocks, and one growth less."
            )

    @property
    def temporal(self) -> int:
        """Frames that a latent frame becomes, but for the first, which becomes one."""
        return self.patch[0] * prod(time for time, _ in self.growth)

    @property
    def spatial(self) -> int:
        """Pixels that a latent becomes along height and along width."""
        return self.patch[1] * prod(space for _, space in self.growth)

    @classmethod
    def for_compression(
        cls,
        compression: Compression,
        channels: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        patch: tuple[int, int],
        upscale: int = 1,
    ) -> "DecoderLayout":
        """The layout that undoes a compression: from level to level a cell doubles in space and time while it has to.

        Args:
            compression: of the VAE.
            channels: of its latents.
            widths: see the class.
            blocks: see the class.
            patch: frames, and rows and columns, of pixels in a cell of the last level.
            upscale: pixels along height and width for one of the VAE.

        Raises:
            ValueError: if levels and patch do not multiply to the compression.
        """
        time, space = patch
        growth = []
        for _ in widths[1:]:
            growth.append((1 + (time < compression.temporal), 1 + (space < compression.spatial * upscale)))
            time, space = time * growth[-1][0], space * growth[-1][1]
        if (time, space) != (compression.temporal, compression.spatial * upscale):
            raise ValueError(
                f"patch: {patch[0]} frames of {patch[1]} pixels and {len(widths)} widths, each level twice as fine as "
                f"the one before, make {time} frames of {space} pixels of a latent, expected {compression.temporal} of "
                f"{compression.spatial * upscale}; change patch, or the number of widths."
            )
        patches = (patch[0], patch[1], patch[1])
        return cls(channels, widths, blocks, tuple(growth), patches, slope=0.2, activates_first=True)


_Pictures: TypeAlias = Float[Tensor, "pictures channels height width"]
"""Single frames, all clips' first ones before all their second ones; a convolution takes them without copying them."""


class _Block(nn.Module):
    """A residual block that sees its frame and the one before, and activates last, as TAEHV's."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: _Pictures, memory: "_Memory") -> _Pictures:
        hidden = functional.leaky_relu(self.join(memory.with_before(self, x)), self.slope)
        hidden = self.out(functional.leaky_relu(self.middle(hidden), self.slope))
        return functional.leaky_relu(x + hidden, self.slope)


class _EarlyBlock(nn.Module):
    """A residual block that activates first, so that nothing is lost on the way past it.

    Source: Identity Mappings in Deep Residual Networks (arXiv 1603.05027).
    """

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: _Pictures, memory: "_Memory") -> _Pictures:
        joined = self.join(memory.with_before(self, functional.leaky_relu(x, self.slope)))
        return x + self.out(functional.leaky_relu(joined, self.slope))


class _Memory:
    """The last frame that every block of a decoder saw, while clips are decoded together."""

    def __init__(self, is_start: bool = True) -> None:
        self.frames: dict[nn.Module, Tensor] = {}
        self.is_start = is_start
        self.clips = 0

    def with_before(
        self, block: nn.Module, x: _Pictures
    ) -> Float[Tensor, "pictures twice_channels height width"]:
        """Each picture behind that of the frame before, zeros before the first of all, joined along channels."""
        last = self.frames.get(block)
        # Copied, as a view would keep all of the piece in memory.
        self.frames[block] = x[-self.clips :].clone()
        before = torch.cat([torch.zeros_like(x[: self.clips]) if last is None else last, x[: -self.clips]])
        return torch.cat([before, x], dim=1)


class StreamingDecoder(nn.Module):
    """Takes normalised latents to pixels in [-1, 1].

    Attributes:
        layout: its shape.
        vae: fingerprint of the VAE whose latents it knows; empty where it was not taken.
        made_of: what its weights follow from, as its trainer says; None where that is not known.
    """

    def __init__(
        self, layout: DecoderLayout, vae: str = "", made_of: Mapping[str, Any] | None = None
    ) -> None:
        """Make one with random weights; see the attributes."""
        super().__init__()
        self.layout, self.vae = layout, vae
        self.made_of = None if made_of is None else dict(made_of)
        widths, slope = layout.widths, layout.slope
        self.stem = nn.Conv2d(layout.channels, widths[0], 3, padding=1)
        kind = _EarlyBlock if layout.activates_first else _Block
        self.levels = nn.ModuleList(
            nn.ModuleList(kind(width, slope) for _ in range(blocks))
            for width, blocks in zip(widths, layout.blocks, strict=True)
        )
        self.grow = nn.ModuleList(
            nn.Conv2d(width, width * time, 1, bias=False)
            for width, (time, _) in zip(widths[:-1], layout.growth, strict=True)
        )
        self.refine = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for coarse, fine in pairwise(widths)
        )
        self.out = nn.Conv2d(widths[-1], 3 * prod(layout.patch), 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has it for modules too

    def forward(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        is_start: bool = True,
        memory: "_Memory | None" = None,
    ) -> Float[Tensor, "batch 3 _ _ _"]:
        """Decode all frames at once; values may lie a little beyond [-1, 1].

        Args:
            latents: normalised.
            is_start: whether they begin with a clip's first latent frame, which holds one picture.
            memory: of the frames before, instead.
        """
        return self._decode(latents, memory or _Memory(is_start))

    @torch.no_grad()
    def stream(
        self, latents: Float[Tensor, "batch channels frames height width"]
    ) -> Iterator[Float[Tensor, "batch 3 _ _ _"]]:
        """Decode piece by piece, in memory that does not grow with the number of frames.

        Yields:
            The next frames, in [-1, 1]; the first piece begins with one picture for the first latent frame.
        """
        memory = _Memory()
        count = max(1, _CELLS_AT_ONCE // (len(latents) * prod(latents.shape[3:])))
        for piece in latents.split(count, dim=2):
            yield self(piece, memory=memory).clamp(-1, 1)

    def _decode(self, latents: Tensor, memory: _Memory) -> Tensor:
        layout = self.layout
        weight, largest = self.stem.weight, layout.largest_latent
        latents = latents.to(weight.device, weight.dtype)
        if largest is not None:
            latents = torch.tanh(latents / largest) * largest
        memory.clips = clips = len(latents)
        pictures = rearrange(latents, "b c f h w -> (f b) c h w").contiguous(
            memory_format=torch.channels_last
        )
        x = functional.leaky_relu(self.stem(pictures), layout.slope)
        surplus = 0
        for index, level in enumerate(self.levels):
            assert isinstance(level, nn.ModuleList)
            for block in level:
                x = block(x, memory)
            if index < len(layout.growth):
                time, space = layout.growth[index]
                # Told channels last, as they lie in memory, so that the next convolution need not copy them again.
                grown = self.grow[index](x).permute(0, 2, 3, 1)
                x = rearrange(grown, "(f b) h w (t c) -> (f t b) h w c", b=clips, t=time).permute(0, 3, 1, 2)
                x, surplus = self._trimmed(x, time, surplus, memory)
                x = functional.interpolate(x, scale_factor=space, mode="nearest") if space > 1 else x
                x = self.refine[index](x)
        x = self.out(functional.leaky_relu(x, layout.slope))
        frames, rows, columns = layout.patch
        x = rearrange(x, "(f b) (t c p q) h w -> (f t b) c (h p) (w q)", b=clips, t=frames, p=rows, q=columns)
        x, surplus = self._trimmed(x, frames, surplus, memory)
        memory.is_start = False
        return rearrange(x[surplus * clips :], "(f b) c h w -> b c f h w", b=clips)

    def _trimmed(self, x: Tensor, time: int, surplus: int, memory: _Memory) -> tuple[Tensor, int]:
        """Without the frames that the first one should not have become, or how many of them lie ahead now."""
        if not memory.is_start:
            return x, 0
        surplus = surplus * time + time - 1
        return (x, surplus) if self.layout.trims_late else (x[surplus * memory.clips :], 0)

    def save(self, path: Path) -> None:
        """Write it as one file; see `write_network`."""
        about = {"layout": asdict(self.layout), "vae": self.vae, "made_of": self.made_of}
        write_network(path, self, _KIND, about)

    @classmethod
    def load(cls, path: Path) -> "StreamingDecoder":
        """Read one from a file; see `read_network`."""

        def make(about: dict[str, Any]) -> StreamingDecoder:
            layout = {key: _as_tuples(value) for key, value in about.pop("layout").items()}
            return cls(DecoderLayout(**layout), **about)

        return read_network(path, _KIND, make)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
