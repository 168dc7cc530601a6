"""Writes a latent cache, shard by shard: see `latent_cache`, which reads it."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.data.latent_cache import (
    DTYPES,
    FORMAT,
    HEADER_KEY,
    INDEX_NAME,
    CacheError,
    CacheHeader,
    SkippedClip,
    digest_tensors,
    file_digest,
    grid_key,
    of_same_encoders,
    read_index,
    read_shard_header,
)
from swd_video.files import whole_file, write_json
from swd_video.plain_text import on_one_line

# What hashes in an index are of.
_HASHED = {"encoders": "another VAE, text encoder or adapter", "clips_digest": "other clips or captions"}


class LatentCacheWriter:
    """Writes a cache shard by shard, going on where an earlier writer of the same cache stopped.

    Args:
        folder: the cache; made if missing.
        header: what is being encoded.
        shard_size: clips, and captions, in a shard.

    Attributes:
        latent_shards: the names of the shards of clips, and which they hold, by their number in the manifest.
        prompt_shards: the same of captions, by their order of first appearance in the manifest.

    Raises:
        CacheError: if the folder holds another cache, or files that are no cache.
    """

    def __init__(self, folder: str | os.PathLike[str], header: CacheHeader, shard_size: int = 64) -> None:
        if shard_size < 1:
            raise CacheError(f"shard_size: got {shard_size}, expected at least 1.")
        if header.dtype not in DTYPES:
            raise CacheError(f"dtype: got {header.dtype!r}, expected {' or '.join(DTYPES)}.")
        self.folder = Path(folder)
        self.header = header
        self.shard_size = shard_size
        self.latent_shards = _shards("latents", header.num_clips, shard_size)
        self.prompt_shards = _shards("prompts", header.num_captions, shard_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._continue_or_start()

    @property
    def is_whole(self) -> bool:
        """Whether every shard is written, so that `finish` can be called."""
        return all(map(self.has, (*self.latent_shards, *self.prompt_shards)))

    def has(self, shard: str) -> bool:
        """Whether a shard is already written, and neither cut nor without its header."""
        try:
            read_shard_header(self.folder / shard)
        except CacheError:
            return False
        return True

    def write_prompts(
        self, shard: str, captions: Sequence[str], prompt_embeds: Float[Tensor, "captions length dim"]
    ) -> None:
        """Write one shard of captions."""
        assert len(captions) == len(self.prompt_shards[shard]) == len(prompt_embeds)
        for caption, rows in zip(captions, prompt_embeds, strict=True):
            if problem := not_finite(rows, self.header.dtype):
                raise CacheError(f"prompt embeds of {on_one_line(caption)!r}: {problem}")
        self._write(shard, {"prompt_embeds": prompt_embeds}, {"captions": list(captions)})

    def write_latents(
        self,
        shard: str,
        captions: Mapping[str, str],
        latents: Mapping[LatentSize, Float[Tensor, "clips channels _ _ _"]],
        skipped: Sequence[SkippedClip] = (),
    ) -> None:
        """Write one shard of clips.

        Args:
            shard: its name.
            captions: of every clip in it, by its key.
            latents: for every grid, the stacked clips; empty if all were skipped.
            skipped: clips that should be in it and could not be encoded.
        """
        assert len(captions) + len(skipped) == len(self.latent_shards[shard])
        assert not captions or set(latents) == set(self.header.grids)
        for grid, stacked in latents.items():
            if problem := not_finite(stacked, self.header.dtype):
                raise CacheError(f"latents on {grid}: {problem}")
        samples = [{"key": key, "caption": text} for key, text in captions.items()]
        tensors = {grid_key(grid): stacked for grid, stacked in latents.items()}
        self._write(shard, tensors, {"samples": samples, "skipped": list(skipped)})

    def take_back(self, names: Sequence[str]) -> None:
        """Delete shards by their file's name, so that they are encoded again."""
        if names:
            # First, so that a cache that lacks a shard never calls itself complete.
            self._write_index(self._index(complete=False))
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def shards_with_skipped(self) -> list[str]:
        """Names of the shards in which a clip was skipped."""
        written = filter(self.has, self.latent_shards)
        return [shard for shard in written if read_shard_header(self.folder / shard)["skipped"]]

    def finish(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the final index, once every shard is there, and return it."""
        latents, prompts = (
            list(map(self._entry, self.latent_shards)),
            list(map(self._entry, self.prompt_shards)),
        )
        digests = "".join(entry["digest"] for entry, _ in (*latents, *prompts))
        index = self._index(complete=True) | {
            "digest": hashlib.sha256(digests.encode()).hexdigest(),
            "samples": sum(len(header["samples"]) for _, header in latents),
            **(more or {}),
            "skipped": [clip for _, header in latents for clip in header["skipped"]],
            "latents": [entry | {"samples": len(header["samples"])} for entry, header in latents],
            "prompts": [entry | {"captions": len(header["captions"])} for entry, header in prompts],
        }
        self._write_index(index)
        return index

    def _entry(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the index says of any shard, and the shard's header."""
        header = read_shard_header(self.folder / name)
        # Shards from before there were digests are read whole for theirs.
        return {"file": name, "digest": header.get("digest") or file_digest(self.folder / name)}, header

    def _continue_or_start(self) -> None:
        path = self.folder / INDEX_NAME
        # Looked at before the index: another part may be writing it right now, and writes it first.
        names = sorted(entry.name for entry in self.folder.iterdir())
        if path.exists():
            found = read_index(self.folder)
            if of_same_encoders(found, self.header.model, self.header.encoders):
                # By another name of the same model it ends with the same bytes.
                self.header = replace(self.header, model=found["model"])
            expected = self._index(complete=False)
            for key, value in expected.items():
                if key != "complete" and found.get(key) != value:
                    other = f"another {key} (there {found.get(key)!r}, now {value!r})"
                    raise CacheError(
                        f"{self.folder}: holds a cache of {_HASHED.get(key, other)}. Give another folder, or delete "
                        "this one to encode again."
                    )
            return
        strangers = [name for name in names if not name.startswith(".")]
        if strangers:
            raise CacheError(
                f"{self.folder}: holds {strangers[0]} but no {INDEX_NAME}; give a new or empty folder."
            )
        self._write_index(self._index(complete=False))

    def _index(self, complete: bool) -> dict[str, Any]:
        header = self.header.as_dict()
        return {"format": FORMAT, "complete": complete, **header, "shard_size": self.shard_size}

    def _write_index(self, index: dict[str, Any]) -> None:
        write_json(self.folder / INDEX_NAME, index, durable=True)

    def _write(self, shard: str, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
        dtype = DTYPES[self.header.dtype]
        narrow = {key: tensors[key].detach().to("cpu", dtype).contiguous() for key in sorted(tensors)}
        header["digest"] = digest_tensors(narrow, header)
        metadata = {HEADER_KEY: json.dumps(header, ensure_ascii=False)}
        with whole_file(self.folder / shard, durable=True) as draft:
            draft.write_bytes(save(narrow, metadata))


def not_finite(tensor: Tensor, dtype: str) -> str | None:
    """What is wrong with numbers that a cache cannot hold in "float16" or "bfloat16"; None where it can."""
    if torch.isfinite(tensor.to(DTYPES[dtype])).all():
        return None
    was_finite = bool(torch.isfinite(tensor).all())
    cure = "use dtype bfloat16" if was_finite else "the model's weights or precision are at fault"
    return f"infinite or nan in {dtype}; {cure}."


def _shards(kind: str, count: int, size: int) -> dict[str, range]:
    starts = enumerate(range(0, count, size))
    return {
        f"{kind}-{number:05d}.safetensors": range(start, min(start + size, count)) for number, start in starts
    }
