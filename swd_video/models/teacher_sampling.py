"""Clips from a teacher of any family: many steps, with classifier-free guidance."""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.sampling import Generators, draw_noise
from swd_video.models.base import VideoModel
from swd_video.models.guidance import Guidance, WeakerSelf
from swd_video.models.spec import ModelSpec


@torch.no_grad()
def sample_teacher(
    model: VideoModel,
    prompts: Sequence[str] | Float[Tensor, "prompts text_length text_dim"],
    size: PixelSize | LatentSize,
    *,
    steps: int,
    guidance_scale: float | int | None = None,
    guidance_scale_2: float | int | None = None,
    negative_prompt: str | Float[Tensor, "prompts text_length text_dim"] = "",
    shift: float | None = None,
    generator: Generators = None,
    first_frame: Float[Tensor, "prompts channels 1 height width"] | None = None,
    weaker: WeakerSelf | None = None,
) -> Float[Tensor, "prompts channels frames height width"]:
    """Sample clean latents, as diffusers' own pipeline of the family does, with its noise levels and steps.

    Args:
        model: any adapter.
        prompts: one for each clip, or, where the text encoder is out of reach, what it made of them.
        size: of the clips in pixels, or their grid.
        steps: evaluations of the transformer, times two with guidance, and one more with a weaker self.
        guidance_scale: of `Guidance`; 1 is off; default what the model's pipeline does.
        guidance_scale_2: likewise of the second transformer (Wan 2.2 A14B); default the same.
        negative_prompt: what guidance leads away from; likewise.
        shift: take Euler steps over even noise levels shifted by this much, instead of using the model's scheduler.
        generator: source of the noise; one for each clip makes a clip independent of its neighbours.
        first_frame: clean latents of the picture that each clip starts with, see `VideoModel.predict_velocity`.
        weaker: a weaker version of the model, which guidance leads away from as well.

    Returns:
        float32 latents.

    Raises:
        ValueError: if the size is not legal, or the model's scheduler is not one that its pipeline can use.
    """
    if guidance_scale_2 is not None and model.transformer_at(0.0) == "transformer":
        raise ValueError(
            f"guidance_scale_2: got {guidance_scale_2:g}, but this {model.spec.family} model has one transformer; "
            "leave it out."
        )
    grid = size if isinstance(size, LatentSize) else model.spec.compression.latent_size(size)
    prompt_embeds = prompts if isinstance(prompts, Tensor) else model.encode_prompt(list(prompts))
    scale = model.spec.guidance_scale if guidance_scale is None else guidance_scale
    scale_2 = scale if guidance_scale_2 is None else guidance_scale_2
    negative_embeds = None
    if isinstance(negative_prompt, Tensor):
        negative_embeds = negative_prompt
    elif max(scale, scale_2) > 1:
        negative_embeds = model.encode_prompt([negative_prompt] * len(prompt_embeds))
    shape = (len(prompt_embeds), model.spec.latent_channels, *grid.as_tuple())
    latents = draw_noise(shape, generator=generator, device=model.device)
    scheduler = (
        model.teacher_scheduler(steps, grid, generator)
        if shift is None
        else _shifted_scheduler(model, steps, shift)
    )
    guidance = Guidance(scale, negative_embeds, weaker)
    for timestep in scheduler.timesteps:
        sigma = float(timestep) / 1000
        strength = scale if model.transformer_at(sigma) == "transformer" else scale_2
        velocity = guidance.velocity(
            model, latents, sigma, prompt_embeds, first_frame=first_frame, scale=strength
        )
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    if first_frame is not None:
        latents = torch.cat([first_frame.to(latents), latents[:, :, 1:]], dim=2)
    return latents.float()


def _shifted_scheduler(model: VideoModel, steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    # From given levels: left alone, the scheduler starts from a lowest one that is shifted already.
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1].tolist(), device=model.device)
    return scheduler


def chosen_guidance(
    spec: ModelSpec,
    asked: float | int | None,
    negative_prompt: str = "",
    section: str = "",
    quiet: bool = False,
) -> float | int:
    """The guidance scale that was asked for, or what the model's pipeline does; warns on stderr of guidance twice.

    Args:
        spec: of the teacher.
        asked: None for the default.
        negative_prompt: what guidance shall lead away from.
        section: of the config, with its dot, for messages.
        quiet: warn of nothing, where another process does.

    Raises:
        ValueError: if there is a negative prompt, but no guidance.
    """
    chosen = spec.guidance_scale if asked is None else asked
    if negative_prompt and chosen <= 1:
        raise ValueError(
            f"{section}negative_prompt: guidance_scale {chosen:g} is no guidance, so nothing leads away from it; "
            "raise guidance_scale or leave negative_prompt out."
        )
    if chosen > 1 and spec.embedded_guidance is not None and not quiet:
        print(
            f"warning: {section}guidance_scale: {chosen:g} comes on top of the guidance {spec.embedded_guidance:g} "
            f"that this {spec.family} model was distilled to obey, at twice the cost; leave it out, and set "
            "embedded_guidance instead.",
            file=sys.stderr,
        )
    return chosen
