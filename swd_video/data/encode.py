"""Videos to a cache of latents on every grid of a schedule.

A clip is read at the model's frame rate from its start on, cropped around the centre to the target's shape,
shrunk to the target's size in pixels, and from there to the pixels of every smaller grid; each of these is
encoded by the VAE on its own. So a student's stage sees what a teacher would see of a smaller, slower video.

Clips that cannot be read, are too short or too small are reported, skipped and counted: nothing is stretched,
repeated or enlarged in silence. Whatever goes wrong while a clip is read is that clip's own and ends nothing; what goes
wrong with the machine or the model would go wrong with every clip, and ends the run.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.data.clips import pixels_or_reason
from swd_video.data.latent_cache import CacheError, CacheHeader, SkippedClip, distinct_grids
from swd_video.data.latent_cache_filling import (
    CacheFiller,
    CacheReport,
    MadeClips,
    Progress,
    Say,
    encode_on_grids,
)
from swd_video.data.latent_cache_writing import not_finite
from swd_video.data.manifest import Clip, clips_digest
from swd_video.data.share import WHOLE, Share
from swd_video.data.texts import CutTexts, cut_texts
from swd_video.data.video import Decoder
from swd_video.models.base import VideoModel
from swd_video.plain_text import describe_error, on_one_line


def encode_manifest(
    clips: Sequence[Clip],
    load: Callable[[], VideoModel],
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
    share: Share = WHOLE,
    progress: Progress = lambda done, to_do: None,
    say: Say = lambda line: None,
) -> CacheReport:
    """Encode every clip on every grid, and every distinct caption, into a latent cache; see `CacheFiller`.

    The last grid is the target; no other may be larger. The model is loaded if there is something to encode; a cache of
    other `encoders` (of `fingerprint_encoders`) is refused, not continued. `retry_skipped` encodes the files again in
    which an earlier run skipped a clip, on the grids that they have; `verify` reads all files of a finished cache, to
    find changed bytes too. Results may differ in the last bits between batch sizes. PyAV decodes, as decord hides
    damaged pictures instead of reporting them.

    Raises:
        ValueError: if a grid is not legal for the model, or the folder holds another cache.
        OSError: if the cache cannot be written, another run is writing it, or the machine fails to read any clip.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1.")
    if retry_skipped and not share.is_whole:
        raise ValueError(
            "retry_skipped: takes files back, which no other share may be at; encode without a shard."
        )
    header = CacheHeader(
        model=model_name,
        encoders=encoders,
        clips_digest=clips_digest(clips),
        num_clips=len(clips),
        grids=distinct_grids(grids),
        dtype=dtype,
    )
    filler = CacheFiller(folder, header, shard_size, share=share, thorough=verify, progress=progress, say=say)
    if (report := filler.finished(retry_skipped=retry_skipped)) is not None:
        return report
    model = load()
    clips, captions, cut = _check_captions(clips, model)
    encoder = _Encoder(model, filler.header, clips, batch_size, decoder, say)
    return filler.fill(
        model, captions, cut, encoder.encode_file, batch_size=batch_size, retry_skipped=retry_skipped
    )


def _check_captions(clips: Sequence[Clip], model: VideoModel) -> tuple[list[Clip], list[str], CutTexts]:
    """Clips, of which those whose captions the tokenizer fails at say so; all other captions; those that are cut."""
    captions = dict.fromkeys(clip.caption for clip in clips if not clip.problem)
    failures: dict[str, str] = {}

    def note(caption: str, error: Exception) -> None:
        failures[caption] = f"its caption cannot be tokenized: {describe_error(error)}"

    cut = cut_texts(model, captions, note)
    checked = [replace(clip, problem=clip.problem or failures.get(clip.caption, "")) for clip in clips]
    return checked, [caption for caption in captions if caption not in failures], cut


@dataclass(frozen=True)
class _Encoder:
    model: VideoModel
    header: CacheHeader
    clips: Sequence[Clip]
    batch_size: int
    decoder: Decoder
    say: Say

    def encode_file(self, numbers: range, advance: Callable[[int], None]) -> MadeClips:
        batch: dict[int, Tensor] = {}
        latents: dict[int, dict[LatentSize, Tensor]] = {}
        skipped: dict[int, SkippedClip] = {}
        # Batches never cross files: the same clips meet in a batch whether or not a run was interrupted.
        for number, pixels in zip(numbers, self._read_ahead(numbers), strict=True):
            if isinstance(pixels, str):
                skipped[number] = self._skip(number, pixels)
            else:
                batch[number] = pixels
            if batch and (len(batch) == self.batch_size or number == numbers[-1]):
                for member, encoded in self._encode(batch).items():
                    if isinstance(encoded, str):
                        skipped[member] = self._skip(member, encoded)
                    else:
                        latents[member] = encoded
                batch.clear()
            advance(1)
        captions = {_key(number): self.clips[number].caption for number in latents}
        grids = self.header.grids if latents else ()
        stacked = {grid: torch.stack([clip[grid] for clip in latents.values()]) for grid in grids}
        return captions, stacked, [skipped[number] for number in sorted(skipped)]

    def _skip(self, number: int, reason: str) -> SkippedClip:
        path, reason = self.clips[number].name, on_one_line(reason)
        self.say(f"skipped {path}: {reason}")
        return {"key": _key(number), "path": path, "reason": reason}

    def _encode(self, batch: dict[int, Tensor]) -> dict[int, dict[LatentSize, Tensor] | str]:
        """Latents of each clip of a batch, or why it has none."""
        grids = self.header.grids
        encoded = encode_on_grids(self.model, torch.cat(list(batch.values())), grids)
        results: dict[int, dict[LatentSize, Tensor] | str] = {}
        for row, (number, pixels) in enumerate(batch.items()):
            latents = {grid: encoded[grid][row] for grid in grids}
            results[number] = problem = self._not_finite(latents)
            if not problem:
                results[number] = latents
            # Where the plainest clip cannot be stored either, no clip is to blame.
            elif cause := self._not_finite(encode_on_grids(self.model, torch.zeros_like(pixels), grids)):
                raise CacheError(cause)
        return results

    def _not_finite(self, latents: dict[LatentSize, Tensor]) -> str:
        problems = ((grid, not_finite(stored, self.header.dtype)) for grid, stored in latents.items())
        return next((f"latents on {grid}: {problem}" for grid, problem in problems if problem), "")

    def _read_ahead(self, numbers: range) -> Iterator[Tensor | str]:
        # A batch is read and shrunk while the VAE works on the one before; no more, for clips are large.
        spec = self.model.spec
        target = spec.compression.pixel_size(self.header.grids[-1])
        with ThreadPoolExecutor(1) as reader:
            coming: deque[Future[Tensor | str]] = deque()
            for number in numbers:
                clip = self.clips[number]
                coming.append(reader.submit(pixels_or_reason, clip, target, spec.fps, self.decoder))
                if len(coming) > self.batch_size:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()


def _key(number: int) -> str:
    return f"{number:08d}"
