"""Decode the same latents by TAEHV's own code and by ours, from the same files.

    git clone --depth 1 https://github.com/madebyollin/taehv ~/taehv
    python -m tools.taehv_equality ~/taehv

For each layout that is published, TAEHV's network is built by its own code, gets random weights, and is saved in half
precision in both forms, under the published name. Its code then reads the pickle, ours both, and all decode the same
latents in float32: clips of several lengths, whole and frame by frame. Pixels are in [-1, 1].
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import swd_video.core.decoder as streaming
from swd_video.models.published_decoders import read_published_decoder

LENGTHS = (1, 2, 3, 7)
_SIZE = (2, 3)
_TOLERANCE = 1e-4
_CURE = "git clone --depth 1 https://github.com/madebyollin/taehv"


@dataclass(frozen=True)
class Published:
    """A published layout.

    Attributes:
        file: its name, without the ending.
        model: whose latents it takes.
        options: of TAEHV's constructor, where they are not its defaults.
        scale: what it takes, divided by latents as the transformer sees them.
    """

    file: str
    model: str
    options: dict[str, Any]
    scale: float = 1.0


LAYOUTS = (
    Published("taew2_1", "Wan 2.1, Wan 2.2 A14B", {}),
    Published("taew2_2", "Wan 2.2 TI2V-5B", {"patch_size": 2, "latent_channels": 48}),
    Published("taehv", "HunyuanVideo", {}),
    Published("taehv1_5", "HunyuanVideo 1.5", {"patch_size": 2, "latent_channels": 32}),
    Published("taecvx", "CogVideoX 2b", {}, scale=1 / 1.15258426),
    Published("taecvx", "CogVideoX 5b, 1.5", {}, scale=1 / 0.7),
    Published(
        "taeltx_2",
        "LTX-2",
        {"patch_size": 4, "latent_channels": 128, "decoder_time_upscale": (True, True, True)}
        | {"encoder_time_downscale": (True, True, True)},
    ),
)


def load_taehv(checkout: Path) -> Any:
    """The module of TAEHV's own network.

    Raises:
        ValueError: if `checkout` has none.
    """
    path = checkout / "taehv.py"
    if not path.is_file():
        raise ValueError(
            f"{checkout}: has no taehv.py, expected a checkout of TAEHV. Make one: {_CURE} {checkout}"
        )
    spec = importlib.util.spec_from_file_location("taehv", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomize(network: nn.Module, generator: torch.Generator) -> None:
    """Weights that keep the size of what passes through, so that pixels differ widely from place to place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=generator) * fan_in**-0.5)
            if layer.bias is not None:
                layer.bias.data.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.1)
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    layer.bias.data += 0.5  # the middle of the range that pixels are cut to


@torch.no_grad()
def compare(taehv: Any, published: Published, folder: Path, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The largest differences between the pixels of both, by form of the file, for each length."""
    generator = torch.Generator().manual_seed(seed)
    made = taehv.TAEHV(checkpoint_path=None, **published.options)
    randomize(made, generator)
    weights = {name: weight.half().contiguous() for name, weight in made.state_dict().items()}
    pickled, safe = folder / f"{published.file}.pth", folder / f"{published.file}.safetensors"
    torch.save(weights, pickled)
    save_file(weights, safe)
    theirs = taehv.TAEHV(checkpoint_path=str(pickled)).eval()
    ours = {path.suffix: read_published_decoder(path, published.scale) for path in (pickled, safe)}
    for length in LENGTHS:
        shape = (2, made.latent_channels, length, *_SIZE)
        latents = torch.randn(shape, generator=generator)
        expected = _decode(theirs, latents * published.scale)
        row: dict[str, Any] = {"frames": expected.shape[2], "spread": expected.std().item()}
        for suffix, decoder in ours.items():
            pieces = {"whole": [decoder(latents).clamp(-1, 1)], "streamed": list(decoder.stream(latents))}
            assert len(pieces["streamed"]) == length
            for way, parts in pieces.items():
                pixels = torch.cat(parts, dim=2)
                assert pixels.shape == expected.shape, (pixels.shape, expected.shape)
                row[f"{way} {suffix}"] = (pixels - expected).abs().max().item()
        yield row


def _decode(network: Any, latents: Tensor) -> Tensor:
    """By TAEHV's code, which takes time before channels; pixels in [-1, 1]."""
    frames = network.decode_video(latents.transpose(1, 2), parallel=True, show_progress_bar=False)
    if network.is_cogvideox and latents.shape[2] % 2 == 0:
        # An even number of latent frames is that of a clip of other lengths than ours are.
        frames = frames[:, network.frames_to_trim :]
    return frames.transpose(1, 2) * 2 - 1


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of a checked-out TAEHV")
    arguments = parser.parse_args()
    try:
        taehv = load_taehv(arguments.checkout)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    streaming._CELLS_AT_ONCE = 1  # a latent frame at a time
    worst = 0.0
    print("| file | of | frames | deviation of pixels | whole | streamed |\n|---|---|---|---|---|---|")
    for published in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            rows = list(compare(taehv, published, Path(folder)))
        whole, streamed = (
            max(value for row in rows for key, value in row.items() if key.startswith(way))
            for way in ("whole", "streamed")
        )
        frames = ", ".join(str(row["frames"]) for row in rows)
        spread = min(row["spread"] for row in rows)
        print(
            f"| {published.file} | {published.model} | {frames} | {spread:.2f} | {whole:.1e} | {streamed:.1e} |"
        )
        worst = max(worst, whole, streamed)
    return int(worst > _TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
