"""Videos to a cache of latents on every grid of a schedule.

A clip is read at the model's frame rate from its start on, cropped around the centre to the target's shape,
shrunk to the target's size in pixels, and from there to the pixels of every smaller grid; each of these is
encoded by the VAE on its own. So a student's stage sees what a teacher would see of a smaller, slower video.

Clips that cannot be read, are too short or too small are reported, skipped and counted: nothing is stretched,
repeated or enlarged in silence. Whatever goes wrong while a clip is read is that clip's own and ends nothing; what goes
wrong with the machine or the model would go wrong with every clip, and ends the run.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_pixels
from swd_video.data.clips import pixels_or_reason
from swd_video.data.latent_cache import (
    INDEX_NAME,
    CacheError,
    CacheHeader,
    SkippedClip,
    damaged_shards,
    describe_damaged,
    read_index,
)
from swd_video.data.latent_cache_writing import LatentCacheWriter, not_finite
from swd_video.data.manifest import Clip, clips_digest
from swd_video.data.shards import Shard
from swd_video.data.texts import cut_texts, describe_cut, summarize_cut
from swd_video.data.video import Decoder
from swd_video.files import alone_in, together_in
from swd_video.models.base import VideoModel
from swd_video.plain_text import describe_error, on_one_line

_REASONS = 3


@dataclass(frozen=True)
class EncodeReport:
    """What encoding a manifest gave.

    Attributes:
        clips: clips in the manifest.
        samples: clips in the cache.
        captions: distinct captions.
        skipped: clips that could not be encoded, and why.
        reused: clips found already encoded by an earlier run.
        cut_captions: what `summarize_cut` gave of the captions that the model reads only the beginning of.
        is_complete: whether the cache can be read; else other parts are still to come, and `samples` and `skipped` are
            not known yet.
    """

    clips: int
    samples: int
    captions: int
    skipped: tuple[SkippedClip, ...]
    reused: int
    cut_captions: dict[str, Any] = field(default_factory=dict)
    is_complete: bool = True

    def describe_skipped(self) -> str:
        """How many clips were skipped, and the most common reasons, in one line; empty where none was."""
        reasons = Counter(clip.reason for clip in self.skipped)
        named = ", ".join(
            f"{count} x {reason.rstrip('.')}" for reason, count in reasons.most_common(_REASONS)
        )
        rest = ", and others" if len(reasons) > _REASONS else ""
        return f"{len(self.skipped)} of {self.clips} clips are skipped: {named}{rest}." if reasons else ""


def encode_manifest(
    clips: Sequence[Clip],
    model: VideoModel,
    grids: Sequence[LatentSize],
    folder: str | os.PathLike[str],
    *,
    model_name: str,
    encoders: str = "",
    batch_size: int = 4,
    shard_size: int = 64,
    dtype: str = "float16",
    decoder: Decoder = "pyav",
    retry_skipped: bool = False,
    verify: bool = False,
    shard: Shard | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_skip: Callable[[SkippedClip], None] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> EncodeReport:
    """Encode every clip on every grid, and every distinct caption, into a latent cache.

    Killed at any moment and called again, it goes on with the first file that is not whole, and the cache ends
    with the same bytes (same machine, same number of threads). A finished cache of the same clips, encoders and
    target is left as it is, even if it has more grids than asked for; of one that lost files or has damaged ones, these
    are encoded again. Parts may run at once on one folder, and whoever finds every file there completes the cache;
    others may not.

    Args:
        clips: what `read_manifest` gave.
        model: its VAE and text encoder are used.
        grids: latent grids in schedule order; the last is the target, no other may be larger.
        folder: the cache.
        model_name: noted in the cache.
        encoders: what `fingerprint_encoders` gave; a cache of other encoders is then refused, not continued.
        batch_size: clips in one call of the VAE. Results may differ in the last bits between batch sizes.
        shard_size: clips in a file.
        dtype: "float16" or "bfloat16", of what is stored.
        decoder: see `read_video`. PyAV by default: decord hides damaged pictures instead of reporting them.
        retry_skipped: encode the files again in which an earlier run skipped a clip, on the grids that they have.
        verify: read all files of a finished cache, to find changed bytes too, not only what is missing or cut short.
        shard: the part to encode; by default all.
        progress: called with (clips done, clips of this part) after every batch.
        on_skip: called with every clip that is skipped, as it happens.
        say: called with lines for people: captions that are cut, files that are encoded again.

    Raises:
        ValueError: if a grid is not legal for the model, or the folder holds another cache.
        OSError: if the cache cannot be written, another run is writing it, or the machine fails to read any clip.
        RuntimeError: if the model fails.
    """
    grids, shard = checked_grids(grids, model), shard or Shard()
    _check_request(batch_size, retry_skipped, shard)
    index = _finished_index(folder, clips, grids, model_name, encoders, dtype)
    damaged = [] if index is None else damaged_shards(folder, index, thorough=verify)
    if index is not None:
        if not damaged and not (retry_skipped and index["skipped"]):
            return _report(index, index["num_clips"])
        grids = tuple(LatentSize.parse(text) for text in index["grids"])
        shard_size = index["shard_size"]
    digest = clips_digest(clips)
    clips, captions, cut = _check_captions(clips, model)
    if cut:
        say(describe_cut(cut, model.max_tokens, "caption"))
    header = CacheHeader(
        model=model_name,
        encoders=encoders,
        clips_digest=digest,
        num_clips=len(clips),
        num_captions=len(captions),
        fps=model.spec.fps,
        grids=grids,
        dtype=dtype,
    )
    with (alone_in if shard.is_whole else together_in)(folder):
        writer = LatentCacheWriter(folder, header, shard_size)
        if damaged:
            say(describe_damaged(damaged, "encoded"))
        writer.take_back([*damaged, *(writer.shards_with_skipped() if retry_skipped else ())])
        encoder = _ShardEncoder(model, grids, dtype, batch_size, decoder, progress, on_skip)
        write_prompt_shards(writer, model, captions, batch_size, shard.of(range(len(writer.prompt_shards))))
        reused = _write_latent_shards(writer, encoder, clips, shard.of(range(len(writer.latent_shards))))
        summary = summarize_cut(cut, model.max_tokens)
        if not writer.is_whole:
            return EncodeReport(len(clips), 0, len(captions), (), reused, summary, is_complete=False)
        return _report(writer.finish({"cut_captions": summary}), reused)


def _check_captions(clips: Sequence[Clip], model: VideoModel) -> tuple[list[Clip], list[str], dict[str, int]]:
    """Clips, of which those whose captions the tokenizer fails at say so; all other captions; those that are cut."""
    captions = dict.fromkeys(clip.caption for clip in clips if not clip.problem)
    failures: dict[str, str] = {}

    def note(caption: str, error: Exception) -> None:
        failures[caption] = f"its caption cannot be tokenized: {describe_error(error)}"

    cut = cut_texts(model, captions, note)
    checked = [
        replace(clip, problem=failures[clip.caption])
        if not clip.problem and clip.caption in failures
        else clip
        for clip in clips
    ]
    return checked, [caption for caption in captions if caption not in failures], cut


def _check_request(batch_size: int, retry_skipped: bool, shard: Shard) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1.")
    if retry_skipped and not shard.is_whole:
        raise ValueError(
            "retry_skipped: takes files back, which no other part may be at; encode without a shard."
        )


def finished_report(
    folder: str | os.PathLike[str],
    clips: Sequence[Clip],
    grids: Sequence[LatentSize],
    *,
    model_name: str,
    encoders: str = "",
    dtype: str = "float16",
    verify: bool = False,
) -> EncodeReport | None:
    """The report of a finished cache of these clips; None if there is none, or files of it are lost. Needs no model.

    A cache with more grids than asked for serves, if its target is the same.

    Args:
        folder: the cache.
        clips: what `read_manifest` gave.
        grids: latent grids in schedule order.
        model_name: see `encode_manifest`.
        encoders: see `encode_manifest`.
        dtype: see `encode_manifest`.
        verify: see `encode_manifest`.

    Raises:
        ValueError: if the folder holds something that is no cache.
    """
    index = _finished_index(folder, clips, grids, model_name, encoders, dtype)
    if index is None or damaged_shards(folder, index, thorough=verify):
        return None
    return _report(index, index["num_clips"])


def _finished_index(
    folder: str | os.PathLike[str],
    clips: Sequence[Clip],
    grids: Sequence[LatentSize],
    model_name: str,
    encoders: str,
    dtype: str,
) -> dict[str, Any] | None:
    """What a cache of these clips that calls itself complete says of itself; None if there is none."""
    if not (Path(folder) / INDEX_NAME).is_file():
        return None
    index = read_index(folder)
    wanted = {
        "model": model_name,
        "clips_digest": clips_digest(clips),
        "dtype": dtype,
        "complete": True,
    }
    # Old caches of hub models have no fingerprint.
    same = all(index[key] == value for key, value in wanted.items()) and index["encoders"] in ("", encoders)
    names = [str(grid) for grid in grids]
    if not same or not set(names) <= set(index["grids"]) or names[-1] != index["grids"][-1]:
        return None
    return index


def _report(index: dict[str, Any], reused: int) -> EncodeReport:
    skipped = tuple(SkippedClip(**clip) for clip in index["skipped"])
    cut = index.get("cut_captions", {})
    return EncodeReport(index["num_clips"], index["samples"], index["num_captions"], skipped, reused, cut)


@dataclass
class _ShardEncoder:
    model: VideoModel
    grids: tuple[LatentSize, ...]
    dtype: str
    batch_size: int
    decoder: Decoder
    progress: Callable[[int, int], object] | None
    on_skip: Callable[[SkippedClip], None] | None

    def report(self, done: int, to_do: int) -> None:
        if self.progress is not None:
            self.progress(done, to_do)

    def encode_shard(
        self, stretch: range, clips: Sequence[Clip], done: int, to_do: int
    ) -> tuple[list[str], dict[LatentSize, Tensor], list[SkippedClip]]:
        """Keys of the clips that could be read, their latents, and the clips that could not."""
        read: dict[str, Tensor] = {}
        skipped: dict[str, SkippedClip] = {}
        kept: dict[str, dict[LatentSize, Tensor]] = {}
        # Batches never cross shards: the same clips meet in a batch whether or not a run was interrupted.
        for index, pixels in zip(stretch, self._read_ahead(stretch, clips), strict=True):
            key = f"{index:08d}"
            if isinstance(pixels, str):
                skipped[key] = self._skip(key, clips[index], pixels)
            else:
                read[key] = pixels
            if read and (len(read) == self.batch_size or index == stretch[-1]):
                for key, latents in self._encode(read).items():
                    if isinstance(latents, str):
                        skipped[key] = self._skip(key, clips[int(key)], latents)
                    else:
                        kept[key] = latents
                read.clear()
            self.report(done + index - stretch[0] + 1, to_do)
        stacked = {grid: torch.stack([kept[key][grid] for key in kept]) for grid in self.grids if kept}
        return list(kept), stacked, [skipped[key] for key in sorted(skipped)]

    def _skip(self, key: str, clip: Clip, reason: str) -> SkippedClip:
        skipped = SkippedClip(key, clip.name, on_one_line(reason))
        if self.on_skip is not None:
            self.on_skip(skipped)
        return skipped

    def _encode(self, read: dict[str, Tensor]) -> dict[str, dict[LatentSize, Tensor] | str]:
        """Latents of each clip of a batch, or why it has none."""
        batch = encode_on_grids(self.model, torch.cat(list(read.values())), self.grids)
        results: dict[str, dict[LatentSize, Tensor] | str] = {}
        for row, key in enumerate(read):
            latents = {grid: batch[grid][row] for grid in self.grids}
            problem = self._not_finite(latents)
            if problem and (cause := self._not_finite(self._encode_grey(read[key]))):
                raise CacheError(cause)
            results[key] = problem or latents
        return results

    def _encode_grey(self, pixels: Float[Tensor, "1 3 frames height width"]) -> dict[LatentSize, Tensor]:
        """What the model makes of the plainest clip: where that cannot be stored either, no clip is to blame."""
        return encode_on_grids(self.model, torch.zeros_like(pixels), self.grids)

    def _not_finite(self, latents: dict[LatentSize, Tensor]) -> str:
        problems = ((grid, not_finite(latents[grid], self.dtype)) for grid in self.grids)
        return next((f"latents on {grid}: {problem}" for grid, problem in problems if problem), "")

    def _read_ahead(self, stretch: range, clips: Sequence[Clip]) -> Iterator[Tensor | str]:
        # A batch is read and shrunk while the VAE works on the one before; no more, for clips are large.
        target = self.model.spec.compression.pixel_size(self.grids[-1])
        with ThreadPoolExecutor(1) as reader:
            coming: deque[Future[Tensor | str]] = deque()
            for index in stretch:
                coming.append(
                    reader.submit(pixels_or_reason, clips[index], target, self.model.spec.fps, self.decoder)
                )
                if len(coming) > self.batch_size:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()


@torch.no_grad()
def encode_on_grids(
    model: VideoModel, pixels: Float[Tensor, "batch 3 _ _ _"], grids: Sequence[LatentSize]
) -> dict[LatentSize, Tensor]:
    """Shrink clips in pixels to every grid and encode each on its own.

    Args:
        model: its VAE is used.
        pixels: clips in [-1, 1], of the size of the largest grid.
        grids: latent grids.

    Returns:
        Latents on the CPU, by grid.
    """
    sizes = {grid: model.spec.compression.pixel_size(grid) for grid in grids}
    pixels = pixels.to(model.device)
    return {grid: model.encode_video(resize_pixels(pixels, size)).cpu() for grid, size in sizes.items()}


def write_prompt_shards(
    writer: LatentCacheWriter,
    model: VideoModel,
    captions: Sequence[str],
    batch_size: int,
    shards: Sequence[int] | None = None,
) -> None:
    """Embed the captions of those shards that are missing, and write them.

    Args:
        writer: of the cache.
        model: its text encoder is used.
        captions: all distinct captions, in order.
        batch_size: captions in one call.
        shards: look at these only; by default at all.
    """
    for shard in range(len(writer.prompt_shards)) if shards is None else shards:
        if writer.has_prompts(shard):
            continue
        texts = [captions[index] for index in writer.prompt_shards[shard]]
        with torch.no_grad():
            batches = [
                model.encode_prompt(texts[start : start + batch_size]).cpu()
                for start in range(0, len(texts), batch_size)
            ]
        writer.write_prompts(shard, texts, torch.cat(batches))


def _write_latent_shards(
    writer: LatentCacheWriter, encoder: _ShardEncoder, clips: Sequence[Clip], shards: Sequence[int]
) -> int:
    """Write those shards that are missing; returns how many clips are in the others."""
    missing = [shard for shard in shards if not writer.has_latents(shard)]
    to_do = sum(len(writer.latent_shards[shard]) for shard in shards)
    reused = to_do - sum(len(writer.latent_shards[shard]) for shard in missing)
    done = reused
    encoder.report(done, to_do)
    for shard in missing:
        stretch = writer.latent_shards[shard]
        keys, latents, skipped = encoder.encode_shard(stretch, clips, done, to_do)
        writer.write_latents(shard, keys, [clips[int(key)].caption for key in keys], latents, skipped)
        done += len(stretch)
    return reused


def checked_grids(grids: Sequence[LatentSize], model: VideoModel) -> tuple[LatentSize, ...]:
    """Distinct grids, of which none is larger than the last.

    Raises:
        ValueError: if there is none, one is larger than the last, or not legal for the model.
    """
    distinct = tuple(dict.fromkeys(grids))
    if not distinct:
        raise ValueError("schedule: got no grids to encode on, expected at least one.")
    compression, target = model.spec.compression, distinct[-1]
    for grid in distinct:
        try:
            compression.latent_size(compression.pixel_size(grid))
        except ValueError as error:
            raise ValueError(f"schedule: latent grid {grid}: its clips of {error}") from None
        if any(a > b for a, b in zip(grid.as_tuple(), target.as_tuple(), strict=True)):
            raise ValueError(f"schedule: latent grid {grid} is larger than the last one, {target}.")
    return distinct
