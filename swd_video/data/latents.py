"""Latents of many clips, from a latent cache or from a safetensors file, a few at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.data.latent_cache import LatentCache, grid_key

_CLIPS_AT_ONCE = 8
_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class LatentSource:
    """Clips that share one grid, ready to be read.

    Attributes:
        tensors: the files and the names of the tensors in them that hold the clips.
        num_clips: how many.
        channels: of the latents.
        size: their grid; the target of a cache.
        model: name of the model that encoded them, where known.
    """

    tensors: tuple[tuple[Path, str], ...]
    num_clips: int
    channels: int
    size: LatentSize
    model: str | None

    def batches(self) -> Iterator[Float[Tensor, "clips channels frames height width"]]:
        """Read them in order, as stored."""
        for path, key in self.tensors:
            with safe_open(path, framework="pt") as file:
                stored = file.get_slice(key)
                if len(stored.get_shape()) == 4:
                    yield stored[:][None]
                    continue
                for start in range(0, stored.get_shape()[0], _CLIPS_AT_ONCE):
                    yield stored[start : start + _CLIPS_AT_ONCE]


def open_latents(path: str | os.PathLike[str], key: str | None) -> LatentSource:
    """Find the latents in a cache's folder or in a safetensors file.

    In a file, latents are tensors of floats with the axes (clips, channels, frames, height, width), or the last four
    for a single clip; all must have the same channels and grid.

    With a key only this tensor of a file is read.

    Raises:
        ValueError: if there is nothing there, it cannot be read, or holds no latents of one grid.
    """
    path = Path(path)
    if path.is_dir():
        return _open_cache(path, key)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; give a latent cache or a safetensors file.")
    try:
        shapes = _shapes(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from None
    if key is not None and key not in shapes:
        there = ", ".join(shapes) or "none"
        raise ValueError(f"{path}: --key {key}: no such latents; the file has {there}.")
    chosen = shapes if key is None else {key: shapes[key]}
    return _describe(path, {(path, name): shape for name, shape in chosen.items()})


def _open_cache(path: Path, key: str | None) -> LatentSource:
    if key is not None:
        raise ValueError(f"--key {key}: {path} is a cache, in which clips have no keys; leave --key out.")
    cache = LatentCache(path)
    if not len(cache):
        raise ValueError(f"{path}: the cache holds no clip; all were skipped when it was encoded.")
    name = grid_key(cache.grids[-1])
    files = [path / shard["file"] for shard in cache.index["latents"] if shard["samples"]]
    return _describe(path, {(file, name): _shapes(file)[name] for file in files}, cache.index["model"])


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a file that may be latents."""
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_slice(name) for name in sorted(file.keys())}
        shapes = {name: tuple(one.get_shape()) for name, one in stored.items() if one.get_dtype() in _FLOATS}
    return {name: shape for name, shape in shapes.items() if len(shape) in (4, 5)}


def _describe(
    path: Path, shapes: dict[tuple[Path, str], tuple[int, ...]], model: str | None = None
) -> LatentSource:
    layouts = list(dict.fromkeys(shape[-4:] for shape in shapes.values()))
    if not layouts:
        raise ValueError(
            f"{path}: holds no latents; expected a tensor of floats (clips, channels, frames, height, width)."
        )
    if len(layouts) > 1:
        raise ValueError(
            f"{path}: holds tensors of {_name(layouts[0])} and of {_name(layouts[1])}, expected latents of one size; "
            "choose a tensor with --key."
        )
    channels, frames, height, width = layouts[0]
    clips = sum(shape[0] if len(shape) == 5 else 1 for shape in shapes.values())
    if not clips:
        raise ValueError(f"{path}: holds no clip, expected at least one.")
    return LatentSource(tuple(shapes), clips, channels, LatentSize(frames, height, width), model)


def _name(layout: tuple[int, ...]) -> str:
    channels, frames, height, width = layout
    return f"{channels} channels, {frames}x{height}x{width}"
