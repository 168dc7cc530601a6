"""Latents of many clips, from a latent cache or from a safetensors file, a few at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.data.latent_cache import LatentCache

_CLIPS_AT_ONCE = 8
_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class LatentSource:
    """Clips that share one grid, ready to be read.

    Attributes:
        path: the cache's folder, or the file.
        num_clips: how many.
        channels: of the latents.
        size: their grid; the target of a cache.
        model: name of the model that encoded them, where known.
        keys: tensors of the file that hold them; empty for a cache.
    """

    path: Path
    num_clips: int
    channels: int
    size: LatentSize
    model: str | None = None
    keys: tuple[str, ...] = ()

    def batches(self) -> Iterator[Float[Tensor, "clips channels frames height width"]]:
        """Read them in order, as stored."""
        if not self.keys:
            cache = LatentCache(self.path)
            for start in range(0, self.num_clips, _CLIPS_AT_ONCE):
                stop = min(start + _CLIPS_AT_ONCE, self.num_clips)
                samples = [cache.get(index, [self.size]) for index in range(start, stop)]
                yield torch.stack([sample["latents"][self.size] for sample in samples])
            return
        with safe_open(self.path, framework="pt") as file:
            for key in self.keys:
                stored = file.get_slice(key)
                if len(stored.get_shape()) == 4:
                    yield stored[:][None]
                    continue
                for start in range(0, stored.get_shape()[0], _CLIPS_AT_ONCE):
                    yield stored[start : start + _CLIPS_AT_ONCE]


def open_latents(path: str | os.PathLike[str], key: str | None = None) -> LatentSource:
    """Find the latents in a cache's folder or in a safetensors file.

    In a file, latents are tensors of floats with the axes (clips, channels, frames, height, width), or the last four
    for a single clip; all must have the same channels and grid.

    Args:
        path: a folder made by `swd-video encode`, or a file.
        key: read only this tensor of a file.

    Raises:
        ValueError: if there is nothing there, it cannot be read, or holds no latents of one grid.
    """
    path = Path(path)
    if path.is_dir():
        return _open_cache(path, key)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; give a latent cache or a safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            shapes = {
                name: tuple(stored.get_shape())
                for name, stored in slices.items()
                if stored.get_dtype() in _FLOATS and len(stored.get_shape()) in (4, 5)
            }
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from None
    if key is not None and key not in shapes:
        there = ", ".join(shapes) or "none"
        raise ValueError(f"{path}: --key {key}: no such latents; the file has {there}.")
    return _describe_file(path, shapes if key is None else {key: shapes[key]})


def _open_cache(path: Path, key: str | None) -> LatentSource:
    if key is not None:
        raise ValueError(f"--key {key}: {path} is a cache, in which clips have no keys; leave --key out.")
    cache = LatentCache(path)
    if not len(cache):
        raise ValueError(f"{path}: the cache holds no clip; all were skipped when it was encoded.")
    size = cache.grids[-1]
    channels = cache.get(0, [size])["latents"][size].shape[0]
    return LatentSource(path, len(cache), channels, size, cache.index["model"])


def _describe_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> LatentSource:
    layouts = {shape[-4:] for shape in shapes.values()}
    if not layouts:
        raise ValueError(
            f"{path}: holds no latents; expected a tensor of floats (clips, channels, frames, height, width)."
        )
    if len(layouts) > 1:
        first, second = list(dict.fromkeys(shape[-4:] for shape in shapes.values()))[:2]
        raise ValueError(
            f"{path}: holds tensors of {_name(first)} and of {_name(second)}, expected latents of one size; "
            "choose a tensor with --key."
        )
    channels, frames, height, width = layouts.pop()
    clips = sum(shape[0] if len(shape) == 5 else 1 for shape in shapes.values())
    if not clips:
        raise ValueError(f"{path}: holds no clip, expected at least one.")
    return LatentSource(path, clips, channels, LatentSize(frames, height, width), keys=tuple(shapes))


def _name(layout: tuple[int, ...]) -> str:
    channels, frames, height, width = layout
    return f"{channels} channels, {frames}x{height}x{width}"
