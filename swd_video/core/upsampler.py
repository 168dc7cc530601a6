"""A small network that takes clean latents to a larger grid, in place of resizing them.

A latent describes what lies inside its cell, so half-way between two of them lies no latent of the picture half-way:
bicubic resizing gives ghosts, which only noise hides. The network sees which cell every target cell lies in and where
(as in arXiv 2012.09161), so one serves all grids of a schedule, and what it adds to bicubic resizing starts at zero.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from swd_video.core.grid import LatentSize
from swd_video.core.network_file import read_network, write_network
from swd_video.core.resize import resize_latents
from swd_video.core.schedule import ScaleSchedule

GridPair: TypeAlias = tuple[LatentSize, LatentSize]
_PLACE_FEATURES = 5
_KIND = "upsampler"


def growing_pairs(schedule: ScaleSchedule) -> tuple[GridPair, ...]:
    """The grids of stages that follow each other, where the later one is larger; each pair once."""
    pairs = zip(schedule.grids[:-1], schedule.grids[1:], strict=True)
    return tuple(dict.fromkeys((before, after) for before, after in pairs if before != after))


class _Block(nn.Module):
    """A residual block: neighbours in space, neighbours in time, channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        self.channels = nn.Conv3d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.silu(self.space(self.norm(x)))
        return x + self.channels(functional.silu(self.time(hidden)))


class LatentUpsampler(nn.Module):
    """Takes clean latents to a larger grid.

    Attributes:
        pairs: grids between which it was trained to go.
        encoders: fingerprint of the VAE whose latents it knows; empty where it was not taken.
        made_of: what its weights follow from, as its trainer says; None where that is not known.
    """

    def __init__(
        self,
        channels: int,
        width: int = 48,
        depth: int = 1,
        pairs: Sequence[GridPair] = (),
        encoders: str = "",
        made_of: Mapping[str, Any] | None = None,
    ) -> None:
        """Make one that resizes bicubically until it is trained.

        Args:
            channels: of the latents.
            width: channels inside, a multiple of 8.
            depth: residual blocks on the smaller grid, and again on the larger one.
            pairs: see the attributes.
            encoders: see the attributes.
            made_of: see the attributes.
        """
        super().__init__()
        self.channels, self.width, self.depth = channels, width, depth
        self.pairs, self.encoders = tuple(pairs), encoders
        self.made_of = None if made_of is None else dict(made_of)
        self.stem = nn.Conv3d(channels, width, (1, 3, 3), padding=(0, 1, 1))
        self.before = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.place = nn.Sequential(nn.Linear(_PLACE_FEATURES, 64), nn.SiLU(), nn.Linear(64, 2 * width))
        self.join = nn.Conv3d(channels + width, width, (1, 3, 3), padding=(0, 1, 1))
        self.after = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.out = nn.Conv3d(width, channels, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(
        self, latents: Float[Tensor, "batch channels _ _ _"], size: LatentSize
    ) -> Float[Tensor, "batch channels _ _ _"]:
        """Latents on another grid; those that have its size already come back as they are. Computed in float32."""
        old = LatentSize(*latents.shape[2:])
        if old == size:
            return latents
        with torch.autocast(latents.device.type, enabled=False):
            # Channels last: convolutions are a little faster so, and to hand cells on much.
            known = latents.float().contiguous(memory_format=torch.channels_last_3d)
            near, place = (values.to(latents.device) for values in _neighbours(old, size))
            cells = rearrange(self.before(self.stem(known)), "b c f h w -> b (f h w) c")
            found = cells.index_select(1, near).unflatten(1, size.as_tuple())
            gain, shift = self.place(place).chunk(2, dim=-1)
            hidden = rearrange(torch.addcmul(shift, found, 1 + gain), "b f h w c -> b c f h w")
            resized = resize_latents(known, size)
            hidden = self.join(torch.cat([resized, hidden], dim=1))
            upsampled = resized + self.out(functional.silu(self.after(hidden)))
        return upsampled.to(latents.dtype)

    def save(self, path: Path) -> None:
        """Write it as one file; see `write_network`."""
        about = {
            "channels": self.channels,
            "width": self.width,
            "depth": self.depth,
            "pairs": [[str(grid) for grid in pair] for pair in self.pairs],
            "encoders": self.encoders,
            "made_of": self.made_of,
        }
        write_network(path, self, _KIND, about)

    @classmethod
    def load(cls, path: Path) -> "LatentUpsampler":
        """Read one from a file; see `read_network`."""

        def make(about: dict[str, Any]) -> LatentUpsampler:
            pairs = [
                (LatentSize.parse(before), LatentSize.parse(after)) for before, after in about.pop("pairs")
            ]
            return cls(**about, pairs=pairs)

        return read_network(path, _KIND, make)


def _neighbours(old: LatentSize, size: LatentSize) -> tuple[Int[Tensor, " cells"], Float[Tensor, "f h w 5"]]:
    """For each cell of the new grid the number of the cell of the old one that lies nearest, and where it lies.

    Where: its offset from that cell along the three axes, in cells of the old grid; whether it is in the first frame,
    which holds one picture where others hold several; whether both grids have the same frames.
    """
    frames = torch.arange(size.frames) * ((old.frames - 1) / max(size.frames - 1, 1))
    rows, columns = (
        (torch.arange(new) + 0.5) * before / new - 0.5
        for before, new in ((old.height, size.height), (old.width, size.width))
    )
    near, offsets = [], []
    for positions, count in zip((frames, rows, columns), old.as_tuple(), strict=True):
        nearest = positions.round().clamp(0, count - 1)
        near.append(nearest.long())
        offsets.append(positions - nearest)
    numbers = (near[0][:, None, None] * old.height + near[1][:, None]) * old.width + near[2]
    first = (torch.arange(size.frames) == 0).float()
    same = torch.full((size.frames,), float(old.frames == size.frames))
    along_time = [values[:, None, None] for values in (offsets[0], first, same)]
    spread = [along_time[0], offsets[1][None, :, None], offsets[2][None, None, :], *along_time[1:]]
    return numbers.flatten(), torch.stack([values.expand(size.as_tuple()) for values in spread], dim=-1)
