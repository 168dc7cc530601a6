"""Clips that a student's samples are held against: the teacher's, or real ones."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_generator
from swd_video.data.latent_cache import LatentCache
from swd_video.files import whole_file
from swd_video.models.teacher_sampling import sample_teacher
from swd_video.objectives.networks import Networks


@dataclass(frozen=True)
class Reference:
    """Clips on the last grid, for each prompt some samples.

    Attributes:
        whose: for logs and warnings.
        by_prompt: whether they show the student's own prompts, so that they can stand beside its clips.
        latents: makes or reads them, when first asked for: (samples, channels, frames, height, width) for each prompt.
    """

    whose: str
    by_prompt: bool
    latents: Callable[[], list[Tensor]]


@dataclass(frozen=True)
class TeacherSampling:
    """How the teacher makes its clips.

    Attributes:
        grid: on which.
        samples: of each prompt.
        seed: of the run.
        steps: evaluations of the transformer, times two with guidance.
        guidance_scale: 1 is off.
        shift: see `sample_teacher`.
        negative_prompt: what guidance leads away from.
    """

    grid: LatentSize
    samples: int
    seed: int
    steps: int
    guidance_scale: float | int
    shift: float | None
    negative_prompt: str

    def as_json(self, prompts: tuple[str, ...]) -> str:
        """All that the clips depend on, but the weights."""
        return json.dumps({**asdict(self), "grid": str(self.grid), "prompts": prompts})


def teacher_reference(
    networks: Networks,
    sampling: TeacherSampling,
    prompts: tuple[str, ...],
    prompt_embeds: Float[Tensor, "prompts text_length text_dim"],
    negative_embeds: Float[Tensor, "1 text_length text_dim"],
    path: Path,
    keep: bool,
) -> Reference:
    """The teacher's clips of the student's prompts.

    Args:
        networks: who the teacher is.
        sampling: how it samples.
        prompts: the texts.
        prompt_embeds: of the prompts.
        negative_embeds: of the negative prompt.
        path: latents that an earlier start made are found here.
        keep: whether this process writes that file.
    """
    recipe = sampling.as_json(prompts)
    if (embedded := networks.model.spec.embedded_guidance) is not None:
        recipe += f" embedded guidance {embedded:g}"

    @torch.no_grad()
    def make() -> list[Tensor]:
        if (kept := _read(path, recipe)) is not None:
            return kept
        made = []
        for index in range(len(prompts)):
            generators = [
                keyed_generator(sampling.seed, "teacher sample", index, number)
                for number in range(sampling.samples)
            ]
            with networks.teacher():
                made.append(
                    sample_teacher(
                        networks.model,
                        prompt_embeds[index : index + 1].expand(sampling.samples, -1, -1),
                        sampling.grid,
                        steps=sampling.steps,
                        guidance_scale=sampling.guidance_scale,
                        negative_prompt=negative_embeds.expand(sampling.samples, -1, -1),
                        shift=sampling.shift,
                        generator=generators,
                    ).cpu()
                )
        if keep:
            _write(path, made, recipe)
        return made

    return Reference("teacher", True, make)


def real_reference(clips: LatentCache, grid: LatentSize, num_prompts: int, samples: int) -> Reference:
    """Training clips: of the first captions, as many samples as there are.

    Args:
        clips: the cache.
        grid: of the clips.
        num_prompts: how many captions to take.
        samples: the most clips of one caption.
    """

    def read() -> list[Tensor]:
        chosen: dict[str, list[int]] = {}
        for index, caption in enumerate(clips.captions):
            if len(chosen) < num_prompts or caption in chosen:
                chosen.setdefault(caption, []).append(index)
        return [clips.batch(some[:samples], [grid]).latents[grid].float() for some in chosen.values()]

    return Reference("real clips", False, read)


def _read(path: Path, recipe: str) -> list[Tensor] | None:
    """What an earlier start made; None where there is nothing, or nothing of this recipe that is whole."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("recipe") != recipe:
                return None
            kept = [file.get_tensor(key) for key in sorted(file.keys())]
    except (OSError, SafetensorError) as error:
        print(
            f"warning: {path}: cannot be read: {error}. The teacher's clips are made again.", file=sys.stderr
        )
        return None
    return kept if all(latents.isfinite().all() for latents in kept) else None


def _write(path: Path, latents: list[Tensor], recipe: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{index:04d}": some.contiguous() for index, some in enumerate(latents)}
    with whole_file(path) as draft:
        save_file(tensors, draft, {"recipe": recipe})
