"""A teacher's own clips, in a cache of latents on every grid of a schedule.

The teacher samples each clip on the largest grid. It is decoded, shrunk in pixels to every smaller grid, and encoded
again, as a real clip would be, so that distillation cannot tell the two caches apart.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from swd_video.config import dump_config
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_generator
from swd_video.data.latent_cache import CacheHeader, distinct_grids
from swd_video.data.latent_cache_filling import (
    CacheFiller,
    CacheReport,
    MadeClips,
    Progress,
    Say,
    encode_on_grids,
)
from swd_video.data.sections import SynthesizeConfig
from swd_video.data.share import WHOLE, Share
from swd_video.data.texts import choose_prompts, cut_texts, describe_cut
from swd_video.models.base import VideoModel
from swd_video.models.checkpoints import read_pipeline_name
from swd_video.models.fingerprint import fingerprint_encoders, fingerprint_folders
from swd_video.models.guidance import WeakerSelf, identity_of
from swd_video.models.loading import LoadOptions, load_teacher, model_folder, resolve_model_path
from swd_video.models.registry import adapter_for
from swd_video.models.teacher_sampling import chosen_guidance, sample_teacher
from swd_video.plain_text import clean_text

CONFIG_NAME = "synthesize.yaml"


def synthesize(
    config: SynthesizeConfig,
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    share: Share = WHOLE,
    progress: Progress = lambda done, to_do: None,
    say: Say = lambda line: None,
) -> CacheReport:
    """Make the clips that are missing and write them into a latent cache; see `CacheFiller`.

    The teacher is loaded if there is something to make.

    Raises:
        ValueError: if the model, the prompts or a grid is not usable, or the folder holds another cache.
        OSError: if the cache cannot be written, or another run is writing it.
    """
    recipe = _recipe(config)
    header = CacheHeader(
        model=config.model,
        encoders=fingerprint_encoders(resolve_model_path(config.model)),
        clips_digest=_digest(recipe),
        num_clips=len(recipe.prompts) * recipe.samples_per_prompt,
        grids=distinct_grids(config.latent_grids),
        dtype=config.cache_dtype,
    )
    filler = CacheFiller(
        folder,
        header,
        config.prompts_per_file * config.samples_per_prompt,
        share=share,
        texts="prompt",
        progress=progress,
        say=say,
    )
    if (report := filler.finished()) is not None:
        return report
    model = load_teacher(
        config.model,
        dtype=getattr(torch, config.dtype),
        device=device,
        options=LoadOptions(embedded_guidance=config.embedded_guidance),
    )
    chosen_guidance(model.spec, recipe.guidance_scale, recipe.negative_prompt)
    weaker = None if recipe.weaker is None else WeakerSelf(recipe.weaker, model)
    negative = [recipe.negative_prompt] if recipe.guidance_scale != 1 else []
    if line := describe_cut(cut_texts(model, negative), "negative prompt"):
        say(line)
    return filler.fill(
        model,
        recipe.prompts,
        cut_texts(model, recipe.prompts),
        _Sampler(model, recipe, filler.header.grids, weaker).make_file,
        batch_size=recipe.batch_size,
        notes={CONFIG_NAME: dump_config(config)},
    )


def _recipe(config: SynthesizeConfig) -> SynthesizeConfig:
    """The config with all that it leaves to files and to the teacher."""
    guidance = config.guidance_scale
    if guidance is None:
        guidance = adapter_for(read_pipeline_name(model_folder(config.model))).guidance_scale
    known = {
        "prompts": tuple(choose_prompts(config.prompts, config.prompts_file)),
        "guidance_scale": guidance,
        "negative_prompt": clean_text(config.negative_prompt, "negative_prompt:"),
    }
    return config.model_copy(update=known)


def _digest(recipe: SynthesizeConfig) -> str:
    """SHA-256 of everything that the clips follow from."""
    elsewhere = {"model", "prompts_file", "grids", "prompts_per_file", "cache_dtype"}
    values = recipe.model_dump(exclude=elsewhere) | {
        "teacher": fingerprint_folders([model_folder(recipe.model)])
    }
    # Without what is left out, so that caches from before there was such a key stay finished.
    later = ("guidance_scale_2", "embedded_guidance", "weaker")
    if recipe.weaker is not None:
        values["weaker"] = identity_of(recipe.weaker)
    values = {key: value for key, value in values.items() if key not in later or value is not None}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Sampler:
    model: VideoModel
    recipe: SynthesizeConfig
    grids: tuple[LatentSize, ...]
    weaker: WeakerSelf | None

    def make_file(self, numbers: range, advance: Callable[[int], None]) -> MadeClips:
        size, each = self.recipe.batch_size, self.recipe.samples_per_prompt
        clips = [(self.recipe.prompts[number // each], number % each) for number in numbers]
        batches = []
        # Batches never cross files: the same clips meet in a batch whether or not a run was interrupted.
        for start in range(0, len(clips), size):
            batches.append(self._sample(clips[start : start + size]))
            advance(len(clips[start : start + size]))
        latents = {grid: torch.cat([batch[grid] for batch in batches]) for grid in self.grids}
        return {f"{n:08d}": prompt for n, (prompt, _) in zip(numbers, clips, strict=True)}, latents, []

    @torch.no_grad()
    def _sample(self, clips: list[tuple[str, int]]) -> dict[LatentSize, Tensor]:
        """One batch of clips, by prompt and number of the sample, on every grid."""
        recipe, target = self.recipe, self.grids[-1]
        own = sample_teacher(
            self.model,
            [prompt for prompt, _ in clips],
            self.model.spec.compression.pixel_size(target),
            steps=recipe.steps,
            guidance_scale=recipe.guidance_scale,
            guidance_scale_2=recipe.guidance_scale_2,
            negative_prompt=recipe.negative_prompt,
            shift=recipe.shift,
            generator=[keyed_generator(recipe.seed, "synthesize", *clip) for clip in clips],
            weaker=self.weaker,
        )
        again = self.grids[:-1] if recipe.keep_latents else self.grids
        latents = encode_on_grids(self.model, self.model.decode(own).float().clamp(-1, 1), again)
        return {**latents, target: own.cpu()} if recipe.keep_latents else latents
