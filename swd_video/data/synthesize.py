"""A teacher's own clips, in a cache of latents on every grid of a schedule.

The teacher samples each clip on the largest grid. It is decoded, shrunk in pixels to every smaller grid, and encoded
again, as a real clip would be, so that distillation cannot tell the two caches apart.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_generator
from swd_video.data.encode import checked_grids, encode_on_grids, write_prompt_shards
from swd_video.data.latent_cache import INDEX_NAME, CacheHeader, damaged_shards, describe_damaged, read_index
from swd_video.data.latent_cache_writing import LatentCacheWriter
from swd_video.data.shards import Shard
from swd_video.data.texts import cut_texts, describe_cut, summarize_cut
from swd_video.files import alone_in, together_in
from swd_video.models.base import VideoModel
from swd_video.models.teacher_sampling import sample_teacher


@dataclass(frozen=True)
class Recipe:
    """Everything that the clips depend on.

    Attributes:
        teacher: hash of the teacher's files.
        prompts: what to show, each once.
        samples_per_prompt: clips of each.
        seed: the noise of a clip follows from it, its prompt and the number of the sample.
        steps: sampling steps.
        guidance_scale: 1 is off.
        guidance_scale_2: of the second transformer of Wan 2.2 A14B; None is the same.
        embedded_guidance: what the teacher was loaded with; None is its pipeline's.
        negative_prompt: what guidance leads away from.
        shift: see `sample_teacher`.
        keep_latents: store the teacher's own latents on the last grid.
        batch_size: clips sampled at once.
        dtype: precision of the teacher.
    """

    teacher: str
    prompts: tuple[str, ...]
    samples_per_prompt: int = 1
    seed: int = 0
    steps: int = 50
    guidance_scale: float | int = 5.0
    guidance_scale_2: float | int | None = None
    embedded_guidance: float | int | None = None
    negative_prompt: str = ""
    shift: float | None = None
    keep_latents: bool = True
    batch_size: int = 4
    dtype: str = "float32"

    @cached_property
    def clips(self) -> list[tuple[str, int]]:
        """Prompt and number of the sample of every clip, in the order of the cache."""
        return [(prompt, sample) for prompt in self.prompts for sample in range(self.samples_per_prompt)]

    def digest(self) -> str:
        """SHA-256 of all this."""
        # Without what is left out, so that caches from before there was such a key stay finished.
        later = ("guidance_scale_2", "embedded_guidance")
        fields = {key: value for key, value in asdict(self).items() if key not in later or value is not None}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SynthesisReport:
    """What a run left.

    Attributes:
        clips: in the whole cache.
        captions: distinct prompts.
        made: clips that this run made.
        is_complete: whether the cache can be read; else other parts are still to come.
        cut_prompts: what `summarize_cut` gave of the prompts that the teacher reads only the beginning of.
    """

    clips: int
    captions: int
    made: int
    is_complete: bool
    cut_prompts: dict[str, Any] = field(default_factory=dict)


def synthesize(
    model: VideoModel,
    recipe: Recipe,
    grids: Sequence[LatentSize],
    folder: str | os.PathLike[str],
    *,
    model_name: str,
    encoders: str = "",
    prompts_per_file: int = 4,
    dtype: str = "float16",
    shard: Shard | None = None,
    notes: Mapping[str, str] | None = None,
    progress: Callable[[int, int], object] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> SynthesisReport:
    """Make the clips that are missing and write them into a latent cache.

    Killed at any moment and called again, it goes on with the first file that is not whole, and the cache ends with the
    same bytes (same machine, same number of threads). Parts may run at once on one folder, or each on a folder of its
    own whose files are put together afterwards; whoever finds every file there completes the cache.

    Args:
        model: the teacher.
        recipe: what the clips depend on.
        grids: latent grids; the last is what the teacher makes, no other may be larger.
        folder: the cache.
        model_name: noted in the cache.
        encoders: what `fingerprint_encoders` gave.
        prompts_per_file: prompts whose clips share a file.
        dtype: "float16" or "bfloat16", of what is stored.
        shard: the part to make; by default all.
        notes: texts to keep in the cache, by their file's name; written before the first clip is made.
        progress: called with (clips done, clips to do in this part) after every batch.
        say: called with lines for people: prompts that are cut, files that are made again.

    Raises:
        ValueError: if a grid is not legal for the model, or the folder holds another cache.
        OSError: if the cache cannot be written, or another run is writing it.
    """
    grids = checked_grids(grids, model)
    shard = shard or Shard()
    header = CacheHeader(
        model_name,
        encoders,
        recipe.digest(),
        len(recipe.clips),
        len(recipe.prompts),
        model.spec.fps,
        grids,
        dtype,
    )
    cut = cut_texts(model, recipe.prompts)
    cut_negative = cut_texts(model, [recipe.negative_prompt]) if recipe.guidance_scale != 1 else {}
    for texts, what in ((cut, "prompt"), (cut_negative, "negative prompt")):
        if texts:
            say(describe_cut(texts, model.max_tokens, what))
    summary = summarize_cut(cut, model.max_tokens)
    with (alone_in if shard.is_whole else together_in)(folder):
        writer = LatentCacheWriter(folder, header, prompts_per_file * recipe.samples_per_prompt)
        damaged = _damaged(folder)
        if damaged:
            say(describe_damaged(damaged, "made"))
        writer.take_back(damaged)
        for name, text in (notes or {}).items():
            writer.write_note(name, text)
        prompt_files = shard.of(range(len(writer.prompt_shards)))
        write_prompt_shards(writer, model, recipe.prompts, recipe.batch_size, prompt_files)
        made = _write_clips(writer, model, recipe, shard.of(range(len(writer.latent_shards))), progress)
        if writer.is_whole:
            writer.finish({"cut_captions": summary})
        return SynthesisReport(len(recipe.clips), len(recipe.prompts), made, writer.is_whole, summary)


def _damaged(folder: str | os.PathLike[str]) -> list[str]:
    index = read_index(folder)
    return damaged_shards(folder, index) if index["complete"] else []


def _write_clips(
    writer: LatentCacheWriter,
    model: VideoModel,
    recipe: Recipe,
    files: Sequence[int],
    progress: Callable[[int, int], object] | None,
) -> int:
    """Make the clips of those files that are missing; returns how many."""
    missing = [number for number in files if not writer.has_latents(number)]
    to_do = sum(len(writer.latent_shards[number]) for number in missing)
    grids, made = writer.header.grids, 0
    for number in missing:
        stretch = writer.latent_shards[number]
        chosen = [recipe.clips[index] for index in stretch]
        batches = []
        # Batches never cross files: the same clips meet in a batch whether or not a run was interrupted.
        for start in range(0, len(chosen), recipe.batch_size):
            batch = chosen[start : start + recipe.batch_size]
            batches.append(_sample(model, recipe, batch, grids))
            made += len(batch)
            if progress is not None:
                progress(made, to_do)
        latents = {grid: torch.cat([batch[grid] for batch in batches]) for grid in grids}
        writer.write_latents(number, [f"{index:08d}" for index in stretch], [p for p, _ in chosen], latents)
    return made


def finished_synthesis(
    folder: str | os.PathLike[str], recipe: Recipe, grids: Sequence[LatentSize]
) -> SynthesisReport | None:
    """The report of a complete cache of this recipe on these grids; None if there is none. Needs no model.

    Raises:
        ValueError: if the folder holds something that is no cache.
    """
    if not (Path(folder) / INDEX_NAME).is_file():
        return None
    index: dict[str, Any] = read_index(folder)
    same = index["clips_digest"] == recipe.digest() and index["grids"] == [str(grid) for grid in grids]
    if not (same and index["complete"]) or damaged_shards(folder, index):
        return None
    return SynthesisReport(len(recipe.clips), len(recipe.prompts), 0, True, index.get("cut_captions", {}))


@torch.no_grad()
def _sample(
    model: VideoModel,
    recipe: Recipe,
    clips: Sequence[tuple[str, int]],
    grids: tuple[LatentSize, ...],
) -> dict[LatentSize, Tensor]:
    """One batch of clips on every grid."""
    own = sample_teacher(
        model,
        [prompt for prompt, _ in clips],
        model.spec.compression.pixel_size(grids[-1]),
        steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        guidance_scale_2=recipe.guidance_scale_2,
        negative_prompt=recipe.negative_prompt,
        shift=recipe.shift,
        generator=[keyed_generator(recipe.seed, "synthesize", prompt, sample) for prompt, sample in clips],
    )
    again = grids[:-1] if recipe.keep_latents else grids
    latents = encode_on_grids(model, model.decode(own).float().clamp(-1, 1), again)
    return {**latents, grids[-1]: own.cpu()} if recipe.keep_latents else latents
