"""Clips that a student's samples are held against: the teacher's, or real ones."""

import json
import shutil
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swd_video.core.randomness import keyed_generator
from swd_video.files import whole_file
from swd_video.models.guidance import WeakerSelf, identity_of
from swd_video.models.teacher_sampling import sample_teacher
from swd_video.plain_text import sentence
from swd_video.training.config import TeacherSamplesConfig
from swd_video.training.step import Stepper


@torch.no_grad()
def teacher_latents(
    stepper: Stepper,
    teacher: TeacherSamplesConfig,
    guidance_scale: float | int,
    prompt_embeds: Float[Tensor, "prompts text_length text_dim"],
    negative_embeds: Float[Tensor, "1 text_length text_dim"],
    weaker: WeakerSelf | None,
    path: Path,
) -> list[Tensor]:
    """The teacher's clips of the sample prompts, on the last grid: the samples of each prompt.

    Those that an earlier start of the run made lie at `path`; the first process writes them.
    """
    train, spec, count = stepper.train, stepper.networks.model.spec, stepper.train.samples_per_prompt
    # All that the clips depend on, but the weights.
    recipe = json.dumps(
        {
            "grid": str(stepper.schedule.target),
            "samples": count,
            "seed": stepper.seed,
            "steps": teacher.steps,
            "guidance_scale": guidance_scale,
            "shift": teacher.shift,
            "negative_prompt": teacher.negative_prompt,
            "prompts": train.sample_prompts,
        }
    )
    if weaker is not None:
        recipe += f" weaker {json.dumps(identity_of(weaker.config), sort_keys=True)}"
    if spec.embedded_guidance is not None:
        recipe += f" embedded guidance {spec.embedded_guidance:g}"
    if (known := _read(path, recipe)) is not None:
        return known
    made = []
    for index in range(len(train.sample_prompts)):
        generators = [
            keyed_generator(stepper.seed, "teacher sample", index, number) for number in range(count)
        ]
        with stepper.networks.teacher():
            latents = sample_teacher(
                stepper.networks.model,
                prompt_embeds[index : index + 1].expand(count, -1, -1),
                stepper.schedule.target,
                steps=teacher.steps,
                guidance_scale=guidance_scale,
                negative_prompt=negative_embeds.expand(count, -1, -1),
                shift=teacher.shift,
                generator=generators,
                weaker=weaker,
            )
        made.append(latents.cpu())
    if stepper.accelerator.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it lie the clips of those that were there, to look at.
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        with whole_file(path) as draft:
            tensors = {f"{index:04d}": some.contiguous() for index, some in enumerate(made)}
            save_file(tensors, draft, {"recipe": recipe})
    return made


def real_latents(stepper: Stepper) -> list[Tensor]:
    """Training clips on the last grid: of as many captions as there are sample prompts, at most as many of each."""
    train, clips, grid = stepper.train, stepper.clips, stepper.schedule.target
    chosen: dict[str, list[int]] = {}
    for index, caption in enumerate(clips.captions):
        if len(chosen) < len(train.sample_prompts) or caption in chosen:
            chosen.setdefault(caption, []).append(index)
    some = [indices[: train.samples_per_prompt] for indices in chosen.values()]
    return [clips.batch(indices, [grid]).latents[grid].float() for indices in some]


def _read(path: Path, recipe: str) -> list[Tensor] | None:
    """What an earlier start made; None where there is nothing, or nothing of this recipe that is whole."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("recipe") != recipe:
                return None
            latents = [file.get_tensor(key) for key in sorted(file.keys())]
    except (OSError, SafetensorError) as error:
        print(
            f"warning: {path}: cannot be read: {sentence(str(error))} The teacher's clips are made again.",
            file=sys.stderr,
        )
        return None
    return latents if all(some.isfinite().all() for some in latents) else None
