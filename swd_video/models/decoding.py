"""From latents to pixels that are looked at: through a model's VAE or the decoder in its place, a few frames at a time.

Where the device has too little memory, that is said on stderr, and the rest is decoded in tiles, then by the CPU.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers.utils.torch_utils import get_module_execution_device
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.decoder import StreamingDecoder
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.published_decoders import load_decoder_file

_TILE_PX, _OVERLAP_PX = 256, 64
_FRAMES_AT_ONCE = 8
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    # What oneDNN, cuDNN and cuBLAS say where they find no memory to work in.
    "could not create a primitive",
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
    "alloc_failed",
)

_Decode: TypeAlias = Callable[[Tensor], Iterator[Tensor]]


def shown_through(model: VideoModel) -> Any:
    """The network that clips of a model are shown through."""
    return model.vae if model.decoder is None else model.decoder


def decode_stream(
    model: VideoModel, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
) -> Iterator[Float[Tensor, "batch 3 _ height width"]]:
    """Latents to pixels in [-1, 1], the next frames each time; memory does not grow with the length of the clip.

    Some VAEs (LTX-Video, HunyuanVideo), and any in diffusers' tiles, give all frames at once.
    """
    network, repeated = shown_through(model), model.spec.compression.repeated_frames

    def decode(part: Tensor) -> Iterator[Tensor]:
        if model.decoder is None:
            return model.decode_in_parts(part)
        return _stream(model.decoder, part[:, :, repeated:])

    device, spatial, given = get_module_execution_device(network), model.spec.compression.spatial, 0
    tile, overlap = max(2, _TILE_PX // spatial), max(1, _OVERLAP_PX // spatial)
    ways: list[tuple[str, _Decode, Any]] = [("", decode, nullcontext)]
    if max(latents.shape[3:]) > tile:
        ways.append(("in tiles", lambda whole: _in_tiles(decode, whole, tile, overlap), nullcontext))
    if device.type != "cpu":
        ways.append(("by the CPU", decode, lambda: _on_cpu(network)))
    for index, (_, run, place) in enumerate(ways):
        try:
            with place():
                for pixels in _skip_frames(run(latents), given):
                    given += pixels.shape[2]
                    yield pixels
            return
        except (RuntimeError, MemoryError) as error:
            if index + 1 == len(ways) or not _is_out_of_memory(error):
                raise
        # Outside of the `except`, where what was computed so far is no longer held by the error.
        print(
            f"warning: {device} has too little memory to decode; decoding {ways[index + 1][0]}",
            file=sys.stderr,
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()


def decode_whole(
    model: VideoModel, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
) -> Float[Tensor, "batch 3 frames height width"]:
    """`decode_stream`, all frames together: in main memory where the device had too little for them."""
    parts = list(decode_stream(model, latents))
    # Those that were decoded in tiles, or by the CPU, are there in float32.
    parts = [part.to(parts[-1]) for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def load_decoder(path: Path, model: VideoModel, base: str | Path) -> StreamingDecoder:
    """Read a decoder for the latents of a model, trained here or published.

    A decoder knows the VAE of that model, whose folder or name is `base`, by its fingerprint.

    Raises:
        ValueError: if there is none, or it is of other latents.
    """
    decoder = load_decoder_file(path, model)
    if decoder.vae and decoder.vae != (vae := fingerprint_vae(base)):
        raise ValueError(
            f"{path}: is a decoder for the VAE with fingerprint {decoder.vae}, that of {base} has {vae}; give one "
            "that swd-video decoder trained for it."
        )
    return decoder


def _stream(decoder: StreamingDecoder, latents: Tensor) -> Iterator[Tensor]:
    """Its pixels; on a processor that multiplies in bfloat16 what is in float32 is computed in that.

    It takes half the time, and pixels differ by a fifth of a step of eight bits, root mean square. The processor is
    asked what it can do, and no clock, so that the same machine makes the same pixels again.
    """
    weight = next(decoder.parameters())
    can = torch.cpu.get_capabilities() if weight.device.type == "cpu" else {}
    is_fast = can.get("avx512_bf16", False) or can.get("amx_bf16", False)
    pieces = decoder.stream(latents)
    while True:
        # Left before each yield, as whoever takes a piece computes as they please.
        with torch.autocast("cpu", torch.bfloat16, enabled=is_fast and weight.dtype == torch.float32):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece.to(weight.dtype)


def _skip_frames(parts: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    for pixels in parts:
        if count < pixels.shape[2]:
            yield pixels[:, :, count:]
        count = max(0, count - pixels.shape[2])


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in text for sign in _OUT_OF_MEMORY
    )


@contextmanager
def _on_cpu(network: nn.Module) -> Iterator[None]:
    """A network in main memory, in float32; afterwards as it was, and where it was, or where CPU offload has it."""
    # The hooks of CPU offload, which the network or parts of it wear.
    hooks = {part: part._hf_hook for part in network.modules() if hasattr(part, "_hf_hook")}
    if hooks:
        remove_hook_from_module(network, recurse=True)
    first = next(network.parameters())
    home, dtype = first.device, first.dtype
    network.to("cpu", torch.float32)
    try:
        yield
    finally:
        network.to("cpu" if hooks else home, dtype)
        for part, hook in hooks.items():
            add_hook_to_module(part, hook)


def _in_tiles(decode: _Decode, latents: Tensor, tile: int, overlap: int) -> Iterator[Tensor]:
    """Decode squares of the picture one after another, which fade into each other where they overlap.

    Each goes through the whole clip, as what a decoder remembers of the frame before would not fit for all; what
    is done waits in a file that has no name.
    """
    size = tuple(latents.shape[3:])
    whole, weights = torch.empty(0), torch.empty(0)
    for rows, columns in product(*(_spans(length, tile, overlap) for length in size)):
        frames = torch.cat(
            [pixels.cpu().float() for pixels in decode(latents[:, :, :, rows, columns])], dim=2
        )
        scale = frames.shape[4] // (columns.stop - columns.start)
        if not weights.numel():
            weights = torch.zeros(size[0] * scale, size[1] * scale)
            whole = _zeros_on_disk((*frames.shape[:3], *weights.shape))
        weight = torch.outer(
            *(_fade(*side, overlap, scale) for side in zip((rows, columns), size, strict=True))
        )
        top, left = (slice(span.start * scale, span.stop * scale) for span in (rows, columns))
        whole[..., top, left] += frames * weight
        weights[top, left] += weight
    for part in whole.split(_FRAMES_AT_ONCE, dim=2):
        yield part / weights


def _zeros_on_disk(shape: tuple[int, ...]) -> Tensor:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(4 * prod(shape))
        return torch.from_file(file.name, shared=True, size=prod(shape)).view(shape)


def _spans(size: int, tile: int, overlap: int) -> list[slice]:
    starts = range(0, max(1, size - overlap), tile - overlap)
    return [slice(start, min(start + tile, size)) for start in starts]


def _fade(span: slice, size: int, overlap: int, scale: int) -> Float[Tensor, " pixels"]:
    """Weights of a tile's pixels along a side: lower towards a neighbour, never 0."""
    place = (torch.arange((span.stop - span.start) * scale) + 0.5) / (overlap * scale)
    weight = torch.ones_like(place)
    if span.start > 0:
        weight = weight.minimum(place)
    return weight.minimum(place.flip(0)) if span.stop < size else weight
