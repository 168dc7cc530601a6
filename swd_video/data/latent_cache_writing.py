"""Writes a latent cache, shard by shard: see `latent_cache`, which reads it."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
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
    read_index,
    read_shard_header,
)
from swd_video.files import whole_file, write_json, write_text
from swd_video.plain_text import on_one_line


class LatentCacheWriter:
    """Writes a cache shard by shard, going on where an earlier writer of the same cache stopped.

    Args:
        folder: the cache; made if missing.
        header: what is being encoded.
        shard_size: clips, and captions, in a shard.

    Attributes:
        latent_shards: the clips of every shard, by their number in the manifest.
        prompt_shards: the captions of every shard, by their order of first appearance in the manifest.

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
        self.latent_shards = _stretches(header.num_clips, shard_size)
        self.prompt_shards = _stretches(header.num_captions, shard_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._continue_or_start()

    @property
    def is_whole(self) -> bool:
        """Whether every shard is written, so that `finish` can be called."""
        return all(map(self.has_latents, range(len(self.latent_shards)))) and all(
            map(self.has_prompts, range(len(self.prompt_shards)))
        )

    def has_latents(self, shard: int) -> bool:
        """Whether a shard of clips is already written, and neither cut nor without its header."""
        return _is_whole(self.folder / _latents_name(shard))

    def has_prompts(self, shard: int) -> bool:
        """Whether a shard of captions is already written, and neither cut nor without its header."""
        return _is_whole(self.folder / _prompts_name(shard))

    def write_prompts(
        self, shard: int, captions: Sequence[str], prompt_embeds: Float[Tensor, "captions length dim"]
    ) -> None:
        """Write one shard of captions."""
        assert len(captions) == len(self.prompt_shards[shard]) == len(prompt_embeds)
        for caption, rows in zip(captions, prompt_embeds, strict=True):
            if problem := not_finite(rows, self.header.dtype):
                raise CacheError(f"prompt embeds of {on_one_line(caption)!r}: {problem}")
        tensors = {"prompt_embeds": self._narrow(prompt_embeds, "prompt embeds")}
        self._write(_prompts_name(shard), tensors, {"captions": list(captions)})

    def write_latents(
        self,
        shard: int,
        captions: Mapping[str, str],
        latents: Mapping[LatentSize, Float[Tensor, "clips channels _ _ _"]],
        skipped: Sequence[SkippedClip] = (),
    ) -> None:
        """Write one shard of clips.

        Args:
            shard: its number.
            captions: of every clip in it, by its key.
            latents: for every grid, the stacked clips; empty if all were skipped.
            skipped: clips of this stretch of the manifest that could not be encoded.
        """
        assert len(captions) + len(skipped) == len(self.latent_shards[shard])
        assert not captions or set(latents) == set(self.header.grids)
        tensors = {grid_key(grid): self._narrow(latents[grid], f"latents on {grid}") for grid in latents}
        samples = [{"key": key, "caption": text} for key, text in captions.items()]
        self._write(
            _latents_name(shard),
            tensors,
            {"samples": samples, "skipped": list(skipped)},
        )

    def take_back(self, names: Sequence[str]) -> None:
        """Delete shards by their file's name, so that they are encoded again."""
        if names:
            # First, so that a cache that lacks a shard never calls itself complete.
            self._write_index(self._index(complete=False))
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def shards_with_skipped(self) -> list[str]:
        """Names of the shards in which a clip was skipped."""
        written = [number for number in range(len(self.latent_shards)) if self.has_latents(number)]
        names = map(_latents_name, written)
        return [name for name in names if read_shard_header(self.folder / name)["skipped"]]

    def write_note(self, name: str, text: str) -> None:
        """Keep a text beside the index, for people."""
        write_text(self.folder / name, text, durable=True)

    def finish(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the final index, once every shard is there, and return it.

        Args:
            more: what else it should say.
        """
        latents = [self._entry(_latents_name(shard)) for shard in range(len(self.latent_shards))]
        prompts = [self._entry(_prompts_name(shard)) for shard in range(len(self.prompt_shards))]
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
            expected, found = self._index(complete=False), read_index(self.folder)
            for key, value in expected.items():
                if key != "complete" and found.get(key) != value:
                    raise CacheError(
                        f"{self.folder}: holds a cache of another {key} (there {found.get(key)!r}, now "
                        f"{value!r}). Give another folder, or delete this one to encode again."
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

    def _write(self, name: str, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
        header["digest"] = digest_tensors(tensors, header)
        metadata = {HEADER_KEY: json.dumps(header, ensure_ascii=False)}
        with whole_file(self.folder / name, durable=True) as draft:
            draft.write_bytes(save({key: tensors[key] for key in sorted(tensors)}, metadata))

    def _narrow(self, tensor: Tensor, what: str) -> Tensor:
        if problem := not_finite(tensor, self.header.dtype):
            raise CacheError(f"{what}: {problem}")
        return tensor.detach().to("cpu", DTYPES[self.header.dtype]).contiguous()


def not_finite(tensor: Tensor, dtype: str) -> str | None:
    """What is wrong with numbers that a cache cannot hold; None where it can.

    Args:
        tensor: latents or prompt embeds.
        dtype: "float16" or "bfloat16".
    """
    if torch.isfinite(tensor.to(DTYPES[dtype])).all():
        return None
    was_finite = bool(torch.isfinite(tensor).all())
    cure = "use dtype bfloat16" if was_finite else "the model's weights or precision are at fault"
    return f"infinite or nan in {dtype}; {cure}."


def _is_whole(shard: Path) -> bool:
    try:
        read_shard_header(shard)
    except CacheError:
        return False
    return True


def _stretches(count: int, size: int) -> list[range]:
    bounds = [*range(0, count, size), count]
    return [range(start, end) for start, end in pairwise(bounds)]


def _latents_name(shard: int) -> str:
    return f"latents-{shard:05d}.safetensors"


def _prompts_name(shard: int) -> str:
    return f"prompts-{shard:05d}.safetensors"
