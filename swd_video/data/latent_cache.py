"""A cache of encoded clips: what distillation reads instead of videos.

    index.json                    what is in it; `"complete": false` while it is being written
    prompts-00000.safetensors     "prompt_embeds" (captions, length, dim), each distinct caption once
    latents-00000.safetensors     "latents.9x16x16" (clips, channels, frames, height, width) for every grid

Every shard also names its clips and captions in its header. A shard holds the clips of a fixed stretch of the
manifest and appears under its name only when whole, so a writer that is killed loses at most the shard in
hand, and one that goes on ends with the same bytes as one that was never stopped.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from swd_video.core.grid import LatentSize

FORMAT = 1
INDEX_NAME = "index.json"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# One key, because safetensors writes several in random order, and the same cache should be the same bytes.
_HEADER_KEY = "swd_video"
_TEMPORARY_SUFFIX = ".tmp"
_OPEN_SHARDS = 256


class CacheError(ValueError):
    """A cache folder that cannot be read, or not be continued."""


@dataclass(frozen=True)
class CacheHeader:
    """What every part of a cache agrees on; caches with unequal headers cannot continue each other.

    Attributes:
        model: name of the model whose VAE and text encoder encoded it.
        encoders: fingerprint of these two networks; empty where it was not taken.
        clips_digest: SHA-256 of the manifest's contents.
        num_clips: clips in the manifest, unreadable ones included.
        num_captions: distinct captions in the manifest.
        fps: frames per second of the clips.
        grids: latent grids, in schedule order.
        dtype: "float16" or "bfloat16".
    """

    model: str
    encoders: str
    clips_digest: str
    num_clips: int
    num_captions: int
    fps: float
    grids: tuple[LatentSize, ...]
    dtype: str = "float16"

    def as_dict(self) -> dict[str, Any]:
        """What `index.json` says of it."""
        return {**asdict(self), "grids": [str(grid) for grid in self.grids]}


@dataclass(frozen=True)
class SkippedClip:
    """A clip that could not be encoded.

    Attributes:
        key: its number in the manifest, from 0, as text.
        path: its file, as the manifest names it.
        reason: why.
    """

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


class LatentCacheWriter:
    """Writes a cache shard by shard, going on where an earlier writer of the same cache stopped.

    Args:
        folder: the cache; made if missing.
        header: what is being encoded.
        shard_size: clips, and captions, in a shard.
        alone: nobody else writes to the folder, so that unfinished files in it are leftovers and are deleted.

    Raises:
        CacheError: if the folder holds another cache, or files that are no cache.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        header: CacheHeader,
        shard_size: int = 64,
        *,
        alone: bool = True,
    ) -> None:
        if shard_size < 1:
            raise CacheError(f"shard_size: got {shard_size}, expected at least 1.")
        if header.dtype not in DTYPES:
            raise CacheError(f"dtype: got {header.dtype!r}, expected {' or '.join(DTYPES)}.")
        self.folder = Path(folder)
        self.header = header
        self.shard_size = shard_size
        self.folder.mkdir(parents=True, exist_ok=True)
        if alone:
            for leftover in self.folder.glob(f".*{_TEMPORARY_SUFFIX}"):
                leftover.unlink()
        self._continue_or_start()

    @property
    def is_whole(self) -> bool:
        """Whether every shard is written, so that `finish` can be called."""
        return all(map(self.has_latents, range(len(self.latent_shards)))) and all(
            map(self.has_prompts, range(len(self.prompt_shards)))
        )

    @property
    def latent_shards(self) -> list[range]:
        """The clips of every shard, by their number in the manifest."""
        return _stretches(self.header.num_clips, self.shard_size)

    @property
    def prompt_shards(self) -> list[range]:
        """The captions of every shard, by their order of first appearance in the manifest."""
        return _stretches(self.header.num_captions, self.shard_size)

    def has_latents(self, shard: int) -> bool:
        """Whether a shard of clips is already written."""
        return (self.folder / _latents_name(shard)).is_file()

    def has_prompts(self, shard: int) -> bool:
        """Whether a shard of captions is already written."""
        return (self.folder / _prompts_name(shard)).is_file()

    def write_prompts(
        self, shard: int, captions: Sequence[str], prompt_embeds: Float[Tensor, "captions length dim"]
    ) -> None:
        """Write one shard of captions."""
        assert len(captions) == len(self.prompt_shards[shard]) == len(prompt_embeds)
        tensors = {"prompt_embeds": self._narrow(prompt_embeds, "prompt embeds")}
        self._write(_prompts_name(shard), tensors, {"captions": list(captions)})

    def write_latents(
        self,
        shard: int,
        keys: Sequence[str],
        captions: Sequence[str],
        latents: Mapping[LatentSize, Float[Tensor, "clips channels _ _ _"]],
        skipped: Sequence[SkippedClip] = (),
    ) -> None:
        """Write one shard of clips.

        Args:
            shard: its number.
            keys: name of every clip in it.
            captions: caption of every clip in it.
            latents: for every grid, the stacked clips; empty if all were skipped.
            skipped: clips of this stretch of the manifest that could not be encoded.
        """
        assert len(keys) == len(captions) and len(keys) + len(skipped) == len(self.latent_shards[shard])
        assert not keys or set(latents) == set(self.header.grids)
        tensors = {_grid_key(grid): self._narrow(latents[grid], f"latents on {grid}") for grid in latents}
        samples = [{"key": key, "caption": text} for key, text in zip(keys, captions, strict=True)]
        self._write(
            _latents_name(shard),
            tensors,
            {"samples": samples, "skipped": [asdict(clip) for clip in skipped]},
        )

    def drop_skipped(self) -> int:
        """Take back the shards in which a clip was skipped, so that they are encoded again.

        Returns:
            How many.
        """
        written = [number for number in range(len(self.latent_shards)) if self.has_latents(number)]
        paths = [self.folder / _latents_name(number) for number in written]
        concerned = [path for path in paths if _read_shard_header(path)["skipped"]]
        if concerned:
            # First, so that a cache that lacks a shard never calls itself complete.
            self._write_index(self._index(complete=False))
        for path in concerned:
            path.unlink()
        return len(concerned)

    def write_note(self, name: str, text: str) -> None:
        """Keep a text beside the index, for people."""
        self._replace(name, text.encode())

    def finish(self) -> dict[str, Any]:
        """Write the final index, once every shard is there, and return it."""
        latent_names = [_latents_name(shard) for shard in range(len(self.latent_shards))]
        prompt_names = [_prompts_name(shard) for shard in range(len(self.prompt_shards))]
        latent_headers = [_read_shard_header(self.folder / name) for name in latent_names]
        skipped = [clip for header in latent_headers for clip in header["skipped"]]
        counts = [len(header["samples"]) for header in latent_headers]
        index = self._index(complete=True) | {
            "samples": sum(counts),
            "skipped": skipped,
            "latents": [
                {"file": name, "samples": count} for name, count in zip(latent_names, counts, strict=True)
            ],
            "prompts": [
                {"file": name, "captions": len(stretch)}
                for name, stretch in zip(prompt_names, self.prompt_shards, strict=True)
            ],
        }
        self._write_index(index)
        return index

    def _continue_or_start(self) -> None:
        path = self.folder / INDEX_NAME
        # Looked at before the index: another part may be writing it right now, and writes it first.
        names = sorted(entry.name for entry in self.folder.iterdir())
        if path.exists():
            expected, found = self._index(complete=False), read_index(self.folder)
            for key, value in expected.items():
                if key != "complete" and found.get(key) != value:
                    raise CacheError(
                        f"{self.folder}: holds a cache of another {key} (there {found.get(key)!r}, now "
                        f"{value!r}). Give another folder, or delete this one to encode again."
                    )
            return
        strangers = [name for name in names if not name.endswith(_TEMPORARY_SUFFIX)]
        if strangers:
            raise CacheError(
                f"{self.folder}: holds {strangers[0]} but no {INDEX_NAME}; give a new or empty folder."
            )
        self._write_index(self._index(complete=False))

    def _index(self, complete: bool) -> dict[str, Any]:
        header = self.header.as_dict()
        return {"format": FORMAT, "complete": complete, **header, "shard_size": self.shard_size}

    def _write_index(self, index: dict[str, Any]) -> None:
        self._replace(INDEX_NAME, (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode())

    def _write(self, name: str, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
        metadata = {_HEADER_KEY: json.dumps(header, ensure_ascii=False)}
        self._replace(name, save({key: tensors[key] for key in sorted(tensors)}, metadata))

    def _replace(self, name: str, content: bytes) -> None:
        # Of this writer alone: others may be writing the same index.
        temporary = self.folder / f".{name}.{uuid4().hex}{_TEMPORARY_SUFFIX}"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            # Else a power cut could leave the name on an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)

    def _narrow(self, tensor: Tensor, what: str) -> Tensor:
        narrow = tensor.detach().to("cpu", DTYPES[self.header.dtype]).contiguous()
        if not torch.isfinite(narrow).all():
            was_finite = bool(torch.isfinite(tensor).all())
            cure = "use dtype bfloat16" if was_finite else "the model's weights or precision are at fault"
            raise CacheError(f"{what}: infinite or nan in {self.header.dtype}; {cure}.")
        return narrow


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
            raise CacheError(f"{self.folder}: is not finished; run the same `swd-video encode` again.")
        self.grids = tuple(LatentSize.parse(text) for text in self.index["grids"])
        self._samples: list[tuple[str, int, str, str]] = []
        self._captions: dict[str, tuple[str, int]] = {}
        for shard in self.index["latents"]:
            samples = _read_shard_header(self.folder / shard["file"])["samples"]
            for row, sample in enumerate(samples):
                self._samples.append((shard["file"], row, sample["key"], sample["caption"]))
        for shard in self.index["prompts"]:
            captions = _read_shard_header(self.folder / shard["file"])["captions"]
            self._captions.update({caption: (shard["file"], row) for row, caption in enumerate(captions)})
        if len(self._samples) != self.index["samples"]:
            raise CacheError(
                f"{self.folder}: {INDEX_NAME} counts {self.index['samples']} samples, the shards hold "
                f"{len(self._samples)}; delete the folder and encode again."
            )

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def captions(self) -> list[str]:
        """The caption of every clip, in order; clips of the same caption show what varies between them."""
        return [caption for _, _, _, caption in self._samples]

    def __getitem__(self, index: int) -> LatentSample:
        return self.get(index)

    def get(self, index: int, grids: Sequence[LatentSize] | None = None) -> LatentSample:
        """One clip, as stored (half precision).

        Args:
            index: from 0.
            grids: read only these; by default all.

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
                raise CacheError(f"{self.folder}: has no grid {grid}; it has {_join(self.grids)}.")
            latents[grid] = shard.get_slice(_grid_key(grid))[row]
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
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read: {error}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise CacheError(f"{path}: not a cache of format {FORMAT}; encode again into a new folder.")
    return index


@lru_cache(maxsize=_OPEN_SHARDS)
def _open_shard_of(path: Path, process: int, modified_ns: int) -> Any:
    return safe_open(path, framework="pt")


def _open_shard(path: Path) -> Any:
    # By process, so that forked workers map the file themselves; by time, so that a new cache is seen.
    try:
        return _open_shard_of(path, os.getpid(), path.stat().st_mtime_ns)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path}: cannot be read: {error}; delete the folder and encode again.") from error


def _read_shard_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as shard:
            header: dict[str, Any] = json.loads((shard.metadata() or {})[_HEADER_KEY])
            return header
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read: {error}; delete the folder and encode again.") from error


def _stretches(count: int, size: int) -> list[range]:
    bounds = [*range(0, count, size), count]
    return [range(start, end) for start, end in pairwise(bounds)]


def _latents_name(shard: int) -> str:
    return f"latents-{shard:05d}.safetensors"


def _prompts_name(shard: int) -> str:
    return f"prompts-{shard:05d}.safetensors"


def _grid_key(grid: LatentSize) -> str:
    return f"latents.{grid}"


def _join(grids: Sequence[LatentSize]) -> str:
    return ", ".join(map(str, grids))
