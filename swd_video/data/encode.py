"""Videos to a cache of latents on every grid of a schedule.

A clip is read at the model's frame rate from its start on, cropped around the centre to the target's shape,
shrunk to the target's size in pixels, and from there to the pixels of every smaller grid; each of these is
encoded by the VAE on its own. So a student's stage sees what a teacher would see of a smaller, slower video.

Clips that cannot be read, are too short or too small are reported, skipped and counted: nothing is stretched,
repeated or enlarged in silence.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.resize import resize_pixels
from swd_video.data.latent_cache import (
    INDEX_NAME,
    CacheHeader,
    LatentCacheWriter,
    SkippedClip,
    read_index,
)
from swd_video.data.manifest import Clip, clips_digest
from swd_video.data.shards import Shard
from swd_video.data.video import Decoder, VideoError, probe_video, read_video
from swd_video.models.base import VideoModel

# Frames converted to float at once: a minute of full HD in float32 would not fit in memory.
_FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class EncodeReport:
    """What encoding a manifest gave.

    Attributes:
        clips: clips in the manifest.
        samples: clips in the cache.
        captions: distinct captions.
        skipped: clips that could not be encoded, and why.
        reused: clips found already encoded by an earlier run.
        is_complete: whether the cache can be read; else other parts are still to come, and `samples` and `skipped` are
            not known yet.
    """

    clips: int
    samples: int
    captions: int
    skipped: tuple[SkippedClip, ...]
    reused: int
    is_complete: bool = True


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
    shard: Shard | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_skip: Callable[[SkippedClip], None] | None = None,
) -> EncodeReport:
    """Encode every clip on every grid, and every distinct caption, into a latent cache.

    Killed at any moment and called again, it goes on with the first file that is not whole, and the cache ends
    with the same bytes (same machine, same number of threads). A finished cache of the same clips, encoders and
    target is left as it is, even if it has more grids than asked for. Parts may run at once on one folder; whoever
    finds every file there completes the cache.

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
        shard: the part to encode; by default all.
        progress: called with (clips done, clips of this part) after every batch.
        on_skip: called with every clip that is skipped, as it happens.

    Raises:
        ValueError: if a grid is not legal for the model, or the folder holds another cache.
    """
    grids, shard = checked_grids(grids, model), shard or Shard()
    _check_request(batch_size, retry_skipped, shard)
    finished = finished_report(folder, clips, grids, model_name=model_name, encoders=encoders, dtype=dtype)
    if finished is not None:
        if not (retry_skipped and finished.skipped):
            return finished
        index = read_index(folder)
        grids = tuple(LatentSize.parse(text) for text in index["grids"])
        shard_size = index["shard_size"]
    captions = list(dict.fromkeys(clip.caption for clip in clips))
    header = CacheHeader(
        model=model_name,
        encoders=encoders,
        clips_digest=clips_digest(clips),
        num_clips=len(clips),
        num_captions=len(captions),
        fps=model.spec.fps,
        grids=grids,
        dtype=dtype,
    )
    writer = LatentCacheWriter(folder, header, shard_size, alone=shard.is_whole)
    if retry_skipped:
        writer.drop_skipped()
    encoder = _ShardEncoder(model, grids, batch_size, decoder, progress, on_skip)
    write_prompt_shards(writer, model, captions, batch_size, shard.of(range(len(writer.prompt_shards))))
    reused = _write_latent_shards(writer, encoder, clips, shard.of(range(len(writer.latent_shards))))
    if not writer.is_whole:
        return EncodeReport(len(clips), 0, len(captions), (), reused, is_complete=False)
    return _report(writer.finish(), reused)


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
) -> EncodeReport | None:
    """The report of a finished cache of these clips; None if there is none. Needs no model.

    A cache with more grids than asked for serves, if its target is the same.

    Args:
        folder: the cache.
        clips: what `read_manifest` gave.
        grids: latent grids in schedule order.
        model_name: see `encode_manifest`.
        encoders: see `encode_manifest`.
        dtype: see `encode_manifest`.

    Raises:
        ValueError: if the folder holds something that is no cache.
    """
    if not (Path(folder) / INDEX_NAME).is_file():
        return None
    index = read_index(folder)
    wanted = {
        "model": model_name,
        "encoders": encoders,
        "clips_digest": clips_digest(clips),
        "dtype": dtype,
        "complete": True,
    }
    same = all(index[key] == value for key, value in wanted.items())
    names = [str(grid) for grid in grids]
    if not same or not set(names) <= set(index["grids"]) or names[-1] != index["grids"][-1]:
        return None
    return _report(index, index["num_clips"])


def _report(index: dict[str, Any], reused: int) -> EncodeReport:
    skipped = tuple(SkippedClip(**clip) for clip in index["skipped"])
    return EncodeReport(index["num_clips"], index["samples"], index["num_captions"], skipped, reused)


def clip_pixels(
    clip: Clip, size: PixelSize, fps: int | float, decoder: Decoder = "pyav"
) -> Float[Tensor, "1 3 frames height width"]:
    """Read a clip as pixels in [-1, 1]: the first `size.frames` at `fps`, cropped and shrunk to `size`.

    Raises:
        VideoError: if it cannot be read, or is shorter or smaller than `size`.
    """
    frames, _ = read_video(
        clip.path,
        start_seconds=clip.start,
        end_seconds=clip.end,
        num_frames=size.frames,
        fps=fps,
        decoder=decoder,
    )
    try:
        frames = crop_to_shape(frames, size, probe_video(clip.path).pixel_aspect)
    except ValueError as error:
        raise VideoError(clip.path, str(error)) from error
    pieces = []
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        piece = torch.from_numpy(np.ascontiguousarray(frames[start : start + _FRAMES_AT_ONCE]))
        pixels = piece.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        pieces.append(resize_pixels(pixels, PixelSize(pixels.shape[2], size.height, size.width)))
    return torch.cat(pieces, dim=2)


def crop_to_shape(
    frames: UInt8[np.ndarray, "frames height width 3"], size: PixelSize, pixel_aspect: int | float = 1.0
) -> UInt8[np.ndarray, "frames _ _ 3"]:
    """Cut out the largest centred part that has the shape of `size` when shown.

    Args:
        frames: pictures.
        size: whose height and width give the shape.
        pixel_aspect: width of a stored pixel over its height.

    Raises:
        ValueError: if the part is smaller than `size`.
    """
    height, width = frames.shape[1:3]
    # Shown, the picture is width * pixel_aspect by height. How often `size` fits into it on each axis:
    scale = min(height / size.height, width * pixel_aspect / size.width)
    rows = min(height, round(scale * size.height))
    columns = min(width, round(scale * size.width / pixel_aspect))
    if scale < 1 and not math.isclose(scale, 1):
        raise ValueError(
            f"shows {round(width * pixel_aspect)}x{height} pixels, fewer than the {size.width}x{size.height} "
            "(width x height) of the schedule's last stage."
        )
    top, left = (height - rows) // 2, (width - columns) // 2
    return frames[:, top : top + rows, left : left + columns]


@dataclass(frozen=True)
class _ShardEncoder:
    model: VideoModel
    grids: tuple[LatentSize, ...]
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
        keys: list[str] = []
        skipped: list[SkippedClip] = []
        pending: list[Tensor] = []
        batches: list[dict[LatentSize, Tensor]] = []
        # Batches never cross shards: the same clips meet in a batch whether or not a run was interrupted.
        for index, pixels in zip(stretch, self._read_ahead(stretch, clips), strict=True):
            if isinstance(pixels, SkippedClip):
                skipped.append(pixels)
                if self.on_skip is not None:
                    self.on_skip(pixels)
            else:
                keys.append(f"{index:08d}")
                pending.append(pixels)
            if pending and (len(pending) == self.batch_size or index == stretch[-1]):
                batches.append(encode_on_grids(self.model, torch.cat(pending), self.grids))
                pending.clear()
            self.report(done + index - stretch[0] + 1, to_do)
        latents = {grid: torch.cat([batch[grid] for batch in batches]) for grid in self.grids if batches}
        return keys, latents, skipped

    def _read_ahead(self, stretch: range, clips: Sequence[Clip]) -> Iterator[Tensor | SkippedClip]:
        # A batch is read and shrunk while the VAE works on the one before; no more, for clips are large.
        with ThreadPoolExecutor(1) as reader:
            coming: deque[Future[Tensor | SkippedClip]] = deque()
            for index in stretch:
                coming.append(reader.submit(self._read, f"{index:08d}", clips[index]))
                if len(coming) > self.batch_size:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def _read(self, key: str, clip: Clip) -> Float[Tensor, "1 3 frames height width"] | SkippedClip:
        target = self.model.spec.compression.pixel_size(self.grids[-1])
        try:
            return clip_pixels(clip, target, self.model.spec.fps, self.decoder)
        except VideoError as error:
            return SkippedClip(key, clip.name, error.reason)


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
