"""What it costs to encode a clip and a prompt, counted on shapes."""

from functools import partial

import torch

from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import Flops, count_flops, count_graph, shapes_only
from swd_video.cost.networks import by_frames


def count_encoding(architecture: Architecture, grid: LatentSize) -> int:
    """Operations of the VAE from pixels to latents on a grid, one clip."""
    model, compression = architecture.model, architecture.spec.compression
    counted: dict[LatentSize, Flops] = architecture.counted.setdefault("vae_encoder", {})

    def encode(frames: int) -> Flops:
        latents = LatentSize(frames, grid.height, grid.width)
        if latents not in counted:
            pixels = compression.pixel_size(latents).as_tuple()
            counted[latents] = count_graph(lambda: model.encode_video(torch.empty(1, 3, *pixels)))
        return counted[latents]

    with shapes_only(), torch.no_grad():
        return by_frames(encode, grid.frames, compression.patch[0]).forward


def count_text(architecture: Architecture) -> int:
    """Operations of the text encoders for one prompt; the padding is computed too."""
    counted: dict[tuple[str, int], int] = architecture.counted.setdefault("text", {})
    for name, length in architecture.model.text_tokens.items():
        if (name, length) not in counted:
            tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
            counted[name, length] = count_flops(partial(architecture.parts[name], input_ids=tokens))
    return sum(counted[part] for part in architecture.model.text_tokens.items())
