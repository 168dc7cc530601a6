"""Tiny decoders that are published for the latents of known models: TAEHV's files as a `StreamingDecoder`.

How a file's network is made is read off the names and shapes of its weights. For which latents it is made does not
stand in it: channels and sizes are compared with the model's, and files that agree in these are told apart by their
names. Which file is a model's, and what it takes, say the adapters.

Such a network gives pixels in [0, 1]; its last layer is scaled, so that they are in [-1, 1] like all others here.

Source: https://github.com/madebyollin/taehv.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.models.base import VideoModel
from swd_video.models.checkpoints import (
    PICKLED_SUFFIXES,
    check_finite,
    check_fit,
    read_shapes,
    read_weights,
)

_WIDTHS = (256, 128, 64, 64)
_BLOCKS = (3, 3, 3, 0)
_GROWTH_IN_SPACE = 2  # from level to level, by a layer without weights
_ALIKE = ("taehv", "taew2_1", "taecvx", "taeos1_3", "taeltx_2", "taeltx2_3")
"""Files of which several have the same shapes, or those of a model here whose latents are others."""
_OTHERS = "lighttae"
"""Begins the names of LightX2V's files, which have TAEHV's shapes and take latents as the VAE gives them."""


def load_decoder_file(path: Path, model: VideoModel) -> StreamingDecoder:
    """Read a decoder of a model's latents, saved here or one of TAEHV's files.

    Raises:
        ValueError: if the file is missing or holds something else, or a decoder of other latents.
    """
    own, compression, upscale = model.published_decoder, model.spec.compression, 1
    cure = f"give TAEHV's {own} or" if own else "give"
    cure = f"{cure} one that swd-video decoder trained for it"
    if path.suffix not in PICKLED_SUFFIXES and "stem.weight" in read_shapes(path):
        decoder = StreamingDecoder.load(path)
        upscale = max(1, decoder.layout.spatial // compression.spatial)
    elif path.stem.startswith(_OTHERS) or (path.stem in _ALIKE and path.stem != own):
        raise ValueError(
            f"{path}: is by its name a decoder of other latents than this {model.family} model's; {cure}."
        )
    else:
        decoder = read_published_decoder(path, model.published_decoder_scale)
    for what, got, expected in (
        ("channels of latents", decoder.layout.channels, model.spec.latent_channels),
        ("frames for each latent frame", decoder.layout.temporal, compression.temporal),
        ("pixels along each side of a latent", decoder.layout.spatial, compression.spatial * upscale),
    ):
        if got != expected:
            raise ValueError(
                f"{path}: {what}: got {got}, expected the {expected} of this {model.family} model; {cure}."
            )
    return decoder


def read_published_decoder(path: Path, scale: float = 1.0) -> StreamingDecoder:
    """Read one of TAEHV's files, in float32 and not to be trained, for whatever latents it is made.

    Args:
        path: ends in .safetensors, or is a pickle that holds weights alone.
        scale: what it takes, divided by latents as the transformer sees them.

    Raises:
        ValueError: if the file is missing or holds something else.
    """
    weights = {name: weight for name, weight in _read(path).items() if not name.startswith("encoder.")}
    what = "a decoder of TAEHV's ordinary form (not super, not wide)"
    try:
        decoder = StreamingDecoder(_layout(weights, scale), made_of={"taehv": path.stem})
    except KeyError as error:
        raise ValueError(f"{path}: has no {error.args[0]}, expected {what}; give another file.") from None
    except (IndexError, ArithmeticError, ValueError, RuntimeError):
        raise ValueError(f"{path}: has weights of other shapes than {what}; give another file.") from None
    own = decoder.state_dict()
    names = {name: "{}.{}".format(_PARTS[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in own}
    check_fit(path, weights, {names[name]: weight for name, weight in own.items()}, what)
    decoder.load_state_dict(_translated({name: weights[names[name]].float() for name in own}, scale))
    return decoder.requires_grad_(False).eval()


def published_layout(model: VideoModel) -> DecoderLayout:
    """The shape of the decoder that TAEHV publishes for a model, as its file has it, which need not be there.

    Raises:
        ValueError: if none is published.
    """
    compression = model.spec.compression
    if model.published_decoder is None:
        raise ValueError(f"TAEHV publishes no decoder for the latents of this {model.family} model.")
    doublings, levels = compression.temporal.bit_length() - 1, len(_BLOCKS) - 1
    times = [1 + (level >= levels - doublings) for level in range(levels)]
    patch = compression.spatial // _GROWTH_IN_SPACE**levels
    return _layout_of(model.spec.latent_channels, _WIDTHS, times, patch, model.published_decoder_scale)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in PICKLED_SUFFIXES:
        return read_weights(path)
    if not path.is_file():
        raise ValueError(f"{path}: does not exist; give a decoder's file.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever a broken archive makes it raise
        weights = None
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()
    ):
        raise ValueError(
            f"{path}: is no pickle of weights alone; others could run any code when opened and are not. Download or "
            "copy it again, or give a .safetensors file."
        )
    check_finite(path, weights)
    return dict(weights)


def _published_parts() -> dict[str, str]:
    """What TAEHV calls the layers of a `StreamingDecoder`: all are one sequence, with some that have no weights."""
    parts, place = {"stem": "decoder.1"}, 3
    for level, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            for layer, index in (("join", 0), ("middle", 2), ("out", 4)):
                parts[f"levels.{level}.{block}.{layer}"] = f"decoder.{place}.conv.{index}"
            place += 1
        if level + 1 < len(_BLOCKS):
            parts[f"grow.{level}"] = f"decoder.{place + 1}.conv"
            parts[f"refine.{level}"] = f"decoder.{place + 2}"
            place += 3
    parts["out"] = f"decoder.{place + 1}"
    return parts


_PARTS = _published_parts()


def _layout(weights: Mapping[str, Tensor], scale: float) -> DecoderLayout:
    def shape(part: str) -> torch.Size:
        return weights[f"{_PARTS[part]}.weight"].shape

    levels = range(len(_BLOCKS) - 1)
    widths = (shape("stem")[0], *(shape(f"refine.{level}")[0] for level in levels))
    times = [shape(f"grow.{level}")[0] // widths[level] for level in levels]
    return _layout_of(shape("stem")[1], widths, times, isqrt(shape("out")[0] // 3), scale)


def _layout_of(
    channels: int, widths: tuple[int, ...], times: Sequence[int], patch: int, scale: float
) -> DecoderLayout:
    growth = tuple((time, _GROWTH_IN_SPACE) for time in times)
    return DecoderLayout(
        channels, widths, _BLOCKS, growth, (1, patch, patch), trims_late=True, largest_latent=3.0 / scale
    )


def _translated(weights: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights for latents as the transformer sees them and pixels in [-1, 1]."""
    for name, weight in weights.items():
        if name.endswith("join.weight"):  # which sees the frame before first here, and last there
            weights[name] = torch.cat(weight.chunk(2, dim=1)[::-1], dim=1)
    return weights | {
        "stem.weight": weights["stem.weight"] * scale,
        "out.weight": weights["out.weight"] * 2,
        "out.bias": weights["out.bias"] * 2 - 1,
    }
