"""Windows of space and time in which the tokens of a stage attend to each other."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

from swd_video.core.grid import LatentSize


@dataclass(frozen=True)
class Division:
    """Which tokens of a clip are in which window.

    Attributes:
        order: index of the token at each place, once tokens are sorted by window, and windows by their size.
        back: the inverse.
        groups: number of windows and of tokens in each of them, for every size in turn.
    """

    order: Int64[Tensor, " tokens"]
    back: Int64[Tensor, " tokens"]
    groups: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windows:
    """The windows of a block.

    Attributes:
        size: latents of a window; the last along an axis is smaller where they do not divide the grid.
        shifted: whether the first along an axis is half as long. An axis that fits into a window stays whole.
    """

    size: LatentSize
    shifted: bool = False

    def divide(self, grid: LatentSize, patch: Sequence[int], device: torch.device) -> Division:
        """Sort the tokens of a grid by window.

        Args:
            grid: latents.
            patch: latents in a token along frames, height and width.
            device: where the clips are.
        """
        lengths = [have // step for have, step in zip(grid.as_tuple(), patch, strict=True)]
        sizes = [have // step for have, step in zip(self.size.as_tuple(), patch, strict=True)]
        axes = [_cut(length, size, self.shifted) for length, size in zip(lengths, sizes, strict=True)]
        tokens = torch.arange(math.prod(lengths)).view(lengths)
        by_size: defaultdict[int, list[Tensor]] = defaultdict(list)
        for cuboid in product(*axes):
            window = tokens[cuboid].flatten()
            by_size[len(window)].append(window)
        order = torch.cat([window for windows in by_size.values() for window in windows])
        groups = tuple((len(windows), size) for size, windows in by_size.items())
        return Division(order.to(device), order.argsort().to(device), groups)


WindowsOfBlocks: TypeAlias = Callable[[int], Windows | None]
"""The windows of a transformer's block, by its index; None where every token attends to all others."""


@dataclass(frozen=True)
class LocalAttention:
    """In which windows the tokens of a stage attend to each other; to the text they attend as ever.

    Called with the index of a block, it gives the windows of that block.

    Attributes:
        frames: latent frames of a window.
        height: latents of its height.
        width: latents of its width.
        shift: whether every second block that has windows has them half a window further, so that neighbours hear of
            each other.
        global_every: of so many blocks the last has none, and its tokens attend to all; None: all blocks have windows.

    Raises:
        ValueError: if one of them is not of its kind.
    """

    frames: int
    height: int
    width: int
    shift: bool = True
    global_every: int | None = None

    def __post_init__(self) -> None:
        LatentSize(self.frames, self.height, self.width)
        every = self.global_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"global_every: got {every!r}, expected a whole number of at least 1, or null.")
        if not isinstance(self.shift, bool):
            raise ValueError(f"shift: got {self.shift!r}, expected true or false.")

    @property
    def window(self) -> LatentSize:
        """Latents of a whole window."""
        return LatentSize(self.frames, self.height, self.width)

    def __call__(self, block: int) -> Windows | None:
        """The windows of a block."""
        every = self.global_every or math.inf
        if (block + 1) % every == 0:
            return None
        return Windows(self.window, self.shift and (block - block // every) % 2 == 1)


def _cut(length: int, size: int, shifted: bool) -> list[slice]:
    first = size // 2 if shifted and size < length else size
    return [slice(*ends) for ends in pairwise([0, *range(first or size, length, size), length])]
