"""The trunk of TransNetV2, a network that finds cuts in films: small, of video alone, and trained by others.

Source: TransNet V2: An effective deep network architecture for fast shot transition detection (arXiv 2008.04838).
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from swd_video.models.checkpoints import check_fit, read_weights

TRUNK_CHANNELS = (64, 128, 256)
"""Channels after each stack."""
DILATIONS = (1, 2, 4, 8)
"""Frames to either side that the convolutions of a layer look at."""


class _DilatedLayer(nn.Module):
    """Factored 3-D convolutions that look 1, 2, 4 and 8 frames to either side, side by side."""

    def __init__(self, channels_in: int, filters: int) -> None:
        super().__init__()
        self.spatial = nn.ModuleList(
            nn.Conv3d(channels_in, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False) for _ in DILATIONS
        )
        self.temporal = nn.ModuleList(
            nn.Conv3d(2 * filters, filters, (3, 1, 1), padding=(d, 0, 0), dilation=(d, 1, 1), bias=False)
            for d in DILATIONS
        )
        self.norm = nn.BatchNorm3d(len(DILATIONS) * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        branches = [time(space(x)) for space, time in zip(self.spatial, self.temporal, strict=True)]
        return self.norm(torch.cat(branches, dim=1))


class _Stack(nn.Module):
    """Two such layers with a shortcut, then half the height and width."""

    def __init__(self, channels_in: int, filters: int) -> None:
        super().__init__()
        self.first = _DilatedLayer(channels_in, filters)
        self.second = _DilatedLayer(len(DILATIONS) * filters, filters)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.relu(self.first(x))
        return functional.avg_pool3d(functional.relu(self.second(shortcut)) + shortcut, (1, 2, 2))


class TransNetTrunk(nn.Module):
    """Three stacks of 64, 128 and 256 channels; each halves height and width and keeps all frames.

    Fully convolutional; it was trained on pictures of 27x48, colours from 0 to 1.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *TRUNK_CHANNELS[:-1])
        self.stacks = nn.ModuleList(
            _Stack(channels, out // len(DILATIONS))
            for channels, out in zip(inputs, TRUNK_CHANNELS, strict=True)
        )

    def forward(
        self, pixels: Float[Tensor, "batch 3 frames height width"], num_stacks: int = len(TRUNK_CHANNELS)
    ) -> list[Float[Tensor, "batch channels frames stack_height stack_width"]]:
        """What each of the first stacks puts out."""
        outputs: list[Tensor] = []
        for stack in self.stacks[:num_stacks]:
            outputs.append(stack(outputs[-1] if outputs else pixels))
        return outputs


def empty_trunk() -> TransNetTrunk:
    """The trunk without weights, on the meta device, frozen and in evaluation mode."""
    with torch.device("meta"):
        return TransNetTrunk().requires_grad_(False).eval()


def load_trunk(weights: str | Path) -> TransNetTrunk:
    """The trunk with its weights, frozen and in evaluation mode.

    The file is a safetensors file that `tools/transnetv2.py` made.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    trunk = empty_trunk()  # no random first weights
    try:
        state = read_weights(Path(weights))
        check_fit(weights, state, trunk.state_dict(), "TransNetV2's trunk")
    except ValueError as error:
        raise ValueError(f"{error} `python -m tools.transnetv2 --out FILE` makes one.") from error
    trunk.load_state_dict(state, assign=True)
    return trunk.requires_grad_(False)
