"""Clips from a teacher of any family: many steps, with classifier-free guidance."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.sampling import Generators, draw_noise
from swd_video.models.base import VideoModel


@torch.no_grad()
def sample_teacher(
    model: VideoModel,
    prompts: Sequence[str],
    size: PixelSize,
    *,
    steps: int,
    guidance_scale: float | int = 1.0,
    negative_prompt: str = "",
    shift: float | None = None,
    generator: Generators = None,
) -> Float[Tensor, "prompts channels frames height width"]:
    """Sample clean latents, as diffusers' own pipeline of the family does.

    Guidance is `uncond + guidance_scale * (cond - uncond)`.
    Source: Classifier-Free Diffusion Guidance (arXiv 2207.12598), Eq. 6, whose w is one smaller.

    Args:
        model: any adapter.
        prompts: one for each clip.
        size: of the clips in pixels.
        steps: evaluations of the transformer, times two with guidance.
        guidance_scale: 1 is off.
        negative_prompt: what guidance leads away from.
        shift: take Euler steps over noise levels shifted by this much, instead of using the model's scheduler.
        generator: source of the noise; one for each clip makes a clip independent of its neighbours.

    Returns:
        float32 latents.

    Raises:
        ValueError: if the size is not legal, or the model's scheduler is not one of flow matching.
    """
    grid = model.spec.compression.latent_size(size)
    prompt_embeds = model.encode_prompt(list(prompts))
    guided = guidance_scale > 1
    negative_embeds = model.encode_prompt([negative_prompt] * len(prompts)) if guided else None
    return sample_teacher_latents(
        model,
        prompt_embeds,
        negative_embeds,
        grid,
        steps=steps,
        guidance_scale=guidance_scale,
        shift=shift,
        generator=generator,
    )


@torch.no_grad()
def sample_teacher_latents(
    model: VideoModel,
    prompt_embeds: Float[Tensor, "prompts text_length text_dim"],
    negative_embeds: Float[Tensor, "prompts text_length text_dim"] | None,
    grid: LatentSize,
    *,
    steps: int,
    guidance_scale: float | int = 1.0,
    shift: float | None = None,
    generator: Generators = None,
) -> Float[Tensor, "prompts channels frames height width"]:
    """The same from embedded prompts, where the text encoder is out of reach.

    Args:
        model: any adapter.
        prompt_embeds: one for each clip.
        negative_embeds: likewise, of what guidance leads away from; needed where there is guidance.
        grid: size of the clips in latents.
        steps: see `sample_teacher`, as are the others.
        guidance_scale: 1 is off.
        shift: None takes the model's own scheduler.
        generator: source of the noise.

    Raises:
        ValueError: if the model's scheduler is not one of flow matching.
    """
    scheduler = copy.deepcopy(model.pipe.scheduler) if shift is None else _euler(shift)
    if shift is None:
        _check_scheduler(scheduler)
    if guidance_scale <= 1:
        negative_embeds = None
    shape = (len(prompt_embeds), model.spec.latent_channels, *grid.as_tuple())
    latents = draw_noise(shape, generator=generator, device=model.device)
    scheduler.set_timesteps(steps, device=model.device)
    for timestep in scheduler.timesteps:
        sigma = float(timestep) / 1000
        velocity = model.predict_velocity(latents, sigma, prompt_embeds)
        if negative_embeds is not None:
            without = model.predict_velocity(latents, sigma, negative_embeds)
            velocity = without + guidance_scale * (velocity - without)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents.float()


def _euler(shift: float) -> Any:
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def _check_scheduler(scheduler: Any) -> None:
    """Refuse schedulers whose noise levels depend on more than the number of steps, or are no flow's."""
    config = scheduler.config
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or (
        config.get("prediction_type") == "flow_prediction"
    )
    if not is_flow or config.get("use_dynamic_shifting", False):
        what = "shifts its noise levels by the size of the clip" if is_flow else "is not one of flow matching"
        raise ValueError(
            f"shift: not set, and the model's own {type(scheduler).__name__} {what}; set shift (3 is usual) to "
            "sample with Euler steps."
        )
