"""Fills a latent cache: what making one from videos and having a teacher make one have in common.

Killed at any moment and started again, it goes on with the first file that is not whole, and the cache ends with the
same bytes (same machine, same number of threads). Shares of the work may run at once on one folder, or each on a folder
of its own whose files are put together afterwards; whoever finds every file there completes the cache.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_pixels
from swd_video.data.latent_cache import (
    INDEX_NAME,
    CacheHeader,
    SkippedClip,
    damaged_shards,
    of_same_encoders,
    read_index,
)
from swd_video.data.latent_cache_writing import LatentCacheWriter
from swd_video.data.share import Share
from swd_video.data.texts import CutTexts, describe_cut
from swd_video.files import alone_in, check_writable, together_in, write_text
from swd_video.models.base import VideoModel

Progress = Callable[[int, int], object]
"""Called with (clips done, clips to do in this share), those that are there already counted as done."""

Say = Callable[[str], object]
"""Called with lines for people."""

MadeClips = tuple[dict[str, str], dict[LatentSize, Tensor], list[SkippedClip]]
"""The captions of the clips of a file by key, in order, their latents, and the clips that could not be made."""

MakeClips = Callable[[range, Callable[[int], None]], MadeClips]
"""Makes the clips of these numbers, and tells its second argument how many more are done."""

CacheReport = dict[str, Any]
"""What `index.json` says, and how many clips of this share were there ("reused") and were not ("made"). Until the cache
is complete it has no "samples" and "skipped"."""

_REASONS = 3


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Progress, Say]]:
    """A bar of clips on stderr, where that is a terminal, and lines above it."""
    with tqdm(unit="clip", desc=what, file=sys.stderr, disable=None) as bar:

        def show(done: int, to_do: int) -> None:
            bar.total = to_do
            bar.update(done - bar.n)

        yield show, lambda line: bar.write(line, file=sys.stderr)


class CacheFiller:
    """Fills a cache, or what is missing of it.

    A complete cache of the same clips and target serves even if it has more grids than asked for; of one that lost
    files or has damaged ones, these are made again, as the cache has them.

    Args:
        folder: the cache.
        header: what is to be in it, but for what only the model knows.
        shard_size: clips in a file.
        share: the files to make.
        thorough: read all files of a complete cache, to find changed bytes too, not only what is missing or cut short.
        texts: what one of the captions is called.
        progress: see there.
        say: see there.

    Attributes:
        header: with the grids that a complete cache has.

    Raises:
        ValueError: if the folder holds something that is no cache.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        header: CacheHeader,
        shard_size: int,
        *,
        share: Share,
        thorough: bool = False,
        texts: str = "caption",
        progress: Progress,
        say: Say,
    ) -> None:
        self._folder, self._share, self._texts = Path(folder), share, texts
        self._progress, self._say, self._thorough = progress, say, thorough
        self._index = _complete_index(self._folder, header)
        self._damaged: dict[str, tuple[int, int] | None] = {}
        if self._index is not None:
            # Before they are read, which takes a while: another share may be making some of them again.
            files = [shard["file"] for shard in (*self._index["latents"], *self._index["prompts"])]
            states = {name: _state_of(self._folder / name) for name in files}
            names = damaged_shards(folder, self._index, thorough=thorough)
            self._damaged = {name: states[name] for name in names}
            grids = tuple(map(LatentSize.parse, self._index["grids"]))
            header = replace(
                header, model=self._index["model"], encoders=self._index["encoders"], grids=grids
            )
            shard_size = self._index["shard_size"]
        self.header, self._shard_size = header, shard_size

    def finished(self, *, retry_skipped: bool = False) -> CacheReport | None:
        """The report of a complete cache of which nothing is to be made; else None. Needs no model.

        Raises:
            ValueError: if there is something to be made, and the folder cannot be written.
        """
        if self._index is None or self._damaged or (retry_skipped and self._index["skipped"]):
            check_writable(self._folder, "cache")  # now, as a model is about to be loaded
            if self._thorough and self._index is None:
                self._say(f"{self._folder} is not finished, so none of it is verified; do so once it is.")
            return None
        self._say(f"{self._folder} is finished already{self._how_read(self._index)}")
        if "cut_captions" in self._index:
            self._say_cut(self._index["cut_captions"])
        return self._report(self._index, self._index["num_clips"], 0)

    def fill(
        self,
        model: VideoModel,
        captions: Sequence[str],
        cut: CutTexts,
        make: MakeClips,
        *,
        batch_size: int,
        retry_skipped: bool = False,
        notes: Mapping[str, str] | None = None,
    ) -> CacheReport:
        """Make the files of this share that are missing, and complete the cache if no other is.

        Args:
            model: its text encoder embeds the captions.
            captions: all distinct captions, in order.
            cut: what `cut_texts` gave of them.
            make: see there.
            batch_size: captions embedded at once.
            retry_skipped: make the files again in which an earlier run skipped a clip.
            notes: texts to keep in the cache, by their file's name; written before the first clip is made.

        Raises:
            ValueError: if a grid is not legal for the model, or the folder holds another cache.
            OSError: if the cache cannot be written, or another run is writing it.
        """
        check_grids(self.header.grids, model)
        self._say_cut(cut)
        header = replace(self.header, fps=model.spec.fps, num_captions=len(captions))
        with (alone_in if self._share.is_whole else together_in)(self._folder):
            writer = LatentCacheWriter(self._folder, header, self._shard_size)
            if self._damaged:
                more = f" and {len(self._damaged) - 1} more" if len(self._damaged) > 1 else ""
                self._say(f"missing or damaged, so made again: {next(iter(self._damaged))}{more}")
            writer.take_back([*self._still_damaged(), *(self._skipped_in(writer) if retry_skipped else ())])
            for name, text in (notes or {}).items():
                write_text(self._folder / name, text, durable=True)
            self._write_prompts(writer, model, captions, batch_size)
            reused, made = self._write_clips(writer, make)
            summary = {"cut_captions": cut}
            index = writer.finish(summary) if writer.is_whole else read_index(self._folder) | summary
            return self._report(index, reused, made)

    def _still_damaged(self) -> list[str]:
        """Without those that another share has made again while this one loaded its model."""
        return [name for name, state in self._damaged.items() if _state_of(self._folder / name) == state]

    def _skipped_in(self, writer: LatentCacheWriter) -> list[str]:
        own = self._share.of(list(writer.latent_shards))
        return [shard for shard in writer.shards_with_skipped() if shard in own]

    def _how_read(self, index: Mapping[str, Any]) -> str:
        if not self._thorough:
            return ""
        if index.get("digest") is None:
            return ", by an older version that kept no hashes to verify its files by"
        files = [self._folder / shard["file"] for shard in (*index["latents"], *index["prompts"])]
        mib = sum(file.stat().st_size for file in files) / 2**20
        return f", and all of its {len(files)} files, {mib:,.1f} MiB, were read and are as they were written"

    def _say_cut(self, cut: CutTexts) -> None:
        if line := describe_cut(cut, self._texts):
            self._say(line)

    def _report(self, index: dict[str, Any], reused: int, made: int) -> CacheReport:
        if skipped := index.get("skipped"):
            reasons = Counter(clip["reason"].rstrip(".") for clip in skipped).most_common()
            named = ", ".join(f"{count} x {reason}" for reason, count in reasons[:_REASONS])
            rest = ", and others" if len(reasons) > _REASONS else ""
            self._say(
                f"{len(skipped)} of {index['num_clips']} clips are skipped: {named}{rest}. {self._folder / INDEX_NAME} "
                "names them; repair them and run `swd-video encode` again with --retry-skipped."
            )
        return {**index, "reused": reused, "made": made}

    def _write_prompts(
        self, writer: LatentCacheWriter, model: VideoModel, captions: Sequence[str], batch_size: int
    ) -> None:
        for shard in self._share.of(list(writer.prompt_shards)):
            if writer.has(shard):
                continue
            texts = [captions[index] for index in writer.prompt_shards[shard]]
            with torch.no_grad():
                batches = [
                    model.encode_prompt(texts[start : start + batch_size]).cpu()
                    for start in range(0, len(texts), batch_size)
                ]
            writer.write_prompts(shard, texts, torch.cat(batches))

    def _write_clips(self, writer: LatentCacheWriter, make: MakeClips) -> tuple[int, int]:
        """Returns how many clips of this share were there, and how many were not."""
        shards = self._share.of(list(writer.latent_shards))
        missing = [shard for shard in shards if not writer.has(shard)]
        to_do = sum(len(writer.latent_shards[shard]) for shard in shards)
        reused = done = to_do - sum(len(writer.latent_shards[shard]) for shard in missing)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._progress(done, to_do)

        advance(0)
        for shard in missing:
            writer.write_latents(shard, *make(writer.latent_shards[shard], advance))
        return reused, to_do - reused


def _state_of(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that took its place; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _complete_index(folder: Path, header: CacheHeader) -> dict[str, Any] | None:
    """What a cache of these clips that calls itself complete says of itself; None if there is none."""
    if not (folder / INDEX_NAME).is_file():
        return None
    index, wanted = read_index(folder), header.as_dict()
    same = all(index[key] == wanted[key] for key in ("clips_digest", "dtype"))
    same = same and index["complete"] and of_same_encoders(index, header.model, header.encoders)
    names = wanted["grids"]
    return index if same and set(names) <= set(index["grids"]) and names[-1:] == index["grids"][-1:] else None


def check_grids(grids: Sequence[LatentSize], model: VideoModel) -> None:
    """Refuse grids that no clip can have.

    Raises:
        ValueError: if there is none, one is larger than the last, or not legal for the model.
    """
    if not grids:
        raise ValueError("schedule: got no grids to encode on, expected at least one.")
    compression, target = model.spec.compression, grids[-1]
    for grid in grids:
        try:
            compression.tokens(grid)
        except ValueError as error:
            raise ValueError(f"schedule: {error}") from None
        if any(a > b for a, b in zip(grid.as_tuple(), target.as_tuple(), strict=True)):
            raise ValueError(f"schedule: latent grid {grid} is larger than the last one, {target}.")


@torch.no_grad()
def encode_on_grids(
    model: VideoModel, pixels: Float[Tensor, "batch 3 _ _ _"], grids: Sequence[LatentSize]
) -> dict[LatentSize, Tensor]:
    """Shrink clips in pixels to every grid and encode each on its own.

    Pixels lie in [-1, 1] and have the size of the largest grid.

    Returns:
        Latents on the CPU, by grid.
    """
    sizes = {grid: model.spec.compression.pixel_size(grid) for grid in grids}
    pixels = pixels.to(model.device)
    return {grid: model.encode_video(resize_pixels(pixels, size)).cpu() for grid, size in sizes.items()}
