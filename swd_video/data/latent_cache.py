"""A cache of encoded clips: what distillation reads instead of videos.

    index.json                    what is in it; `"complete": false` while it is being written
    prompts-00000.safetensors     "prompt_embeds" (captions, length, dim), each distinct caption once
    latents-00000.safetensors     "latents.9x16x16" (clips, channels, frames, height, width) for every grid

Every shard also names its clips and captions in its header, with the SHA-256 of all that it holds; the index repeats
these hashes, and "digest" in it is one of all of them. A shard holds the clips of a fixed stretch of the manifest and
appears under its name only when whole, so a writer that is killed loses at most the shard in hand, and one that goes
on ends with the same bytes as one that was never stopped. `latent_cache_writing` writes it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.plain_text import sentence

FORMAT = 1
INDEX_NAME = "index.json"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
HEADER_KEY = "swd_video"
"""One key, because safetensors writes several in random order, and the same cache should be the same bytes."""

_CURE = "Run the command that made the cache again: it makes what is missing"
_INDEX_TYPES: dict[str, type | tuple[type, ...]] = {
    "complete": bool,
    "model": str,
    "encoders": str,
    "clips_digest": str,
    "num_clips": int,
    "num_captions": int,
    "fps": (int, float),
    "grids": list,
    "dtype": str,
    "shard_size": int,
}
_COMPLETE_TYPES = {"samples": int, "skipped": list, "latents": list, "prompts": list}
_OPEN_SHARDS = 256


class CacheError(ValueError):
    """A cache folder that cannot be read, or not be continued."""


def distinct_grids(grids: Iterable[LatentSize]) -> tuple[LatentSize, ...]:
    """Each grid once; the last one, which is the target, stays the last."""
    *others, target = grids
    return *dict.fromkeys(grid for grid in others if grid != target), target


@dataclass(frozen=True, kw_only=True)
class CacheHeader:
    """What every file of a cache agrees on; caches with unequal headers cannot continue each other.

    Attributes:
        model: name of the model whose VAE and text encoder encoded it.
        encoders: fingerprint of these two networks; empty where it was not taken.
        clips_digest: SHA-256 of the manifest's contents.
        num_clips: clips in the manifest, unreadable ones included.
        num_captions: distinct captions in the manifest; 0 as long as the model has not looked at them.
        fps: frames per second of the clips; 0 as long as the model is not loaded.
        grids: latent grids, in schedule order.
        dtype: "float16" or "bfloat16".
    """

    model: str
    encoders: str
    clips_digest: str
    num_clips: int
    num_captions: int = 0
    fps: float = 0.0
    grids: tuple[LatentSize, ...]
    dtype: str = "float16"

    def as_dict(self) -> dict[str, Any]:
        """What `index.json` says of it."""
        return {**asdict(self), "grids": [str(grid) for grid in self.grids]}


class SkippedClip(TypedDict):
    """A clip that could not be encoded: its number in the manifest, from 0, its file as named there, and why."""

    key: str
    path: str
    reason: str


class LatentSample(TypedDict):
    """One clip: latents (channels, frames, height, width) and prompt embeds (length, dim), as stored."""

    key: str
    caption: str
    latents: dict[LatentSize, Tensor]
    prompt_embeds: Tensor


@dataclass(frozen=True)
class LatentBatch:
    """Clips stacked.

    Attributes:
        latents: for every grid, (batch, channels, frames, height, width).
        prompt_embeds: (batch, length, dim).
        captions: one for each clip.
    """

    latents: dict[LatentSize, Float[Tensor, "batch channels frames height width"]]
    prompt_embeds: Float[Tensor, "batch length dim"]
    captions: list[str]


def collate(samples: Sequence[LatentSample]) -> LatentBatch:
    """Stack samples; also serves as `collate_fn` of a DataLoader over a `LatentCache`."""
    grids = samples[0]["latents"]
    return LatentBatch(
        {grid: torch.stack([sample["latents"][grid] for sample in samples]) for grid in grids},
        torch.stack([sample["prompt_embeds"] for sample in samples]),
        [sample["caption"] for sample in samples],
    )


class LatentCache:
    """A finished cache, read sample by sample without loading it whole. Also a map-style torch dataset.

    Attributes:
        folder: where it lies.
        index: what `index.json` says.
        grids: the grids every sample has.

    Raises:
        CacheError: if there is no cache, it is not finished, or a file is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        if not self.index["complete"]:
            raise CacheError(f"{self.folder}: is not finished. Run the command that made it again.")
        self.grids = tuple(LatentSize.parse(text) for text in self.index["grids"])
        self._samples: list[tuple[str, int, str, str]] = []
        self._captions: dict[str, tuple[str, int]] = {}
        for shard in self.index["latents"]:
            samples = _listed_header(self.folder, shard)["samples"]
            for row, sample in enumerate(samples):
                self._samples.append((shard["file"], row, sample["key"], sample["caption"]))
        for shard in self.index["prompts"]:
            captions = _listed_header(self.folder, shard)["captions"]
            self._captions.update({caption: (shard["file"], row) for row, caption in enumerate(captions)})
        if len(self._samples) != self.index["samples"]:
            raise CacheError(
                f"{self.folder}: {INDEX_NAME} counts {self.index['samples']} samples, the shards hold "
                f"{len(self._samples)}. {_CURE}."
            )

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def keys(self) -> list[str]:
        """Of all samples, in order."""
        return [key for _, _, key, _ in self._samples]

    @property
    def captions(self) -> list[str]:
        """The caption of every clip, in order; clips of the same caption show what varies between them."""
        return [caption for _, _, _, caption in self._samples]

    def __getitem__(self, index: int) -> LatentSample:
        return self.get(index)

    def get(self, index: int, grids: Sequence[LatentSize] | None = None) -> LatentSample:
        """One clip, as stored (half precision), on some grids or on all.

        Raises:
            IndexError: if there is no such sample.
            CacheError: if a grid is not in the cache.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        file, row, key, caption = self._samples[index]
        shard = _open_shard(self.folder / file)
        latents = {}
        for grid in self.grids if grids is None else grids:
            if grid not in self.grids:
                raise CacheError(
                    f"{self.folder}: has no grid {grid}; it has {', '.join(map(str, self.grids))}."
                )
            latents[grid] = shard.get_slice(grid_key(grid))[row]
        prompts_file, prompts_row = self._captions[caption]
        prompt_embeds = _open_shard(self.folder / prompts_file).get_slice("prompt_embeds")[prompts_row]
        return {"key": key, "caption": caption, "latents": latents, "prompt_embeds": prompt_embeds}

    def batch(self, indices: Sequence[int], grids: Sequence[LatentSize] | None = None) -> LatentBatch:
        """Several clips stacked, as stored (half precision). See `get`."""
        return collate([self.get(index, grids) for index in indices])


def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a cache says of itself, finished or not.

    Raises:
        CacheError: if the folder holds no cache that this version reads.
    """
    path = Path(folder) / INDEX_NAME
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError(f"{folder}: no cache of latents here (no {INDEX_NAME}).") from None
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {sentence(str(error))}") from None
    except ValueError as error:
        raise CacheError(
            f"{path}: cannot be read: {sentence(str(error))} Delete its folder, or give another, and encode again."
        ) from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise CacheError(f"{path}: not a cache of format {FORMAT}; encode again into a new folder.")
    types = _INDEX_TYPES | (_COMPLETE_TYPES if index.get("complete") is True else {})
    for key, kind in types.items():
        if not isinstance(index.get(key), kind):
            raise CacheError(f"{path}: {key}: got {index.get(key)!r}; the file was changed. Encode again.")
    return index


def of_same_encoders(index: Mapping[str, Any], model: str, encoders: str) -> bool:
    """Whether a cache was encoded by a model's VAE and text encoders.

    Names say less than weights, and a model may have several: they are compared only where a fingerprint is missing, as
    in old caches of hub models.
    """
    if encoders and index["encoders"]:
        return bool(encoders == index["encoders"])
    return bool(model == index["model"])


def damaged_shards(
    folder: str | os.PathLike[str], index: Mapping[str, Any], *, thorough: bool = False
) -> list[str]:
    """Names of the files of a complete cache that are missing, cut short, or of another one.

    Read thoroughly, every file is held against its hash, which finds changed bytes too.
    """
    damaged = []
    for shard in (*index["latents"], *index["prompts"]):
        path = Path(folder) / shard["file"]
        try:
            digest = _listed_header(Path(folder), shard).get("digest")
            if thorough and digest is not None and file_digest(path) != digest:
                damaged.append(path.name)
        except CacheError:
            damaged.append(path.name)
    return damaged


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a complete cache of which no file is missing or cut short.

    Raises:
        CacheError: if its index cannot be read.
    """
    if not (Path(folder) / INDEX_NAME).is_file():
        return False
    index = read_index(folder)
    return bool(index["complete"]) and not damaged_shards(folder, index)


def digest_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of what a shard holds: its header, but for the hash itself, and its tensors."""
    said = {key: value for key, value in header.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """`digest_tensors` of a shard, which is read whole.

    Raises:
        CacheError: if it cannot be read.
    """
    header = read_shard_header(path)
    with safe_open(path, framework="pt") as shard:
        return digest_tensors({key: shard.get_tensor(key) for key in sorted(shard.keys())}, header)


@lru_cache(maxsize=_OPEN_SHARDS)
def _open_shard_of(path: Path, process: int, modified_ns: int) -> Any:
    return safe_open(path, framework="pt")


def _open_shard(path: Path) -> Any:
    # By process, so that forked workers map the file themselves; by time, so that a new cache is seen.
    try:
        return _open_shard_of(path, os.getpid(), path.stat().st_mtime_ns)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path}: cannot be read: {sentence(str(error))} {_CURE}.") from error


def read_shard_header(path: Path) -> dict[str, Any]:
    """What a shard says of its clips or captions.

    Raises:
        CacheError: if it is missing, cut short, or no shard.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            header: dict[str, Any] = json.loads((shard.metadata() or {})[HEADER_KEY])
            return header
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read: {sentence(str(error))} {_CURE}.") from error


def _listed_header(folder: Path, listed: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a shard that an index lists, which must be the very one."""
    header = read_shard_header(folder / listed["file"])
    here, there = header.get("digest"), listed.get("digest")
    if here and there and here != there:
        raise CacheError(f"{folder / listed['file']}: belongs to another cache. {_CURE}.")
    return header


def grid_key(grid: LatentSize) -> str:
    """Name of the tensor that holds latents of a grid."""
    return f"latents.{grid}"
