"""The reference sampling loop: predict clean latents, upsample them, renoise them, go on."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.core.flow import add_noise, x0_from_velocity
from swd_video.core.resize import Upsample
from swd_video.core.schedule import ScaleSchedule

Generators = torch.Generator | Sequence[torch.Generator] | None


def sample_scalewise(
    predict_velocity: Callable[[Tensor, float, int], Tensor],
    schedule: ScaleSchedule,
    *,
    batch_size: int,
    channels: int,
    upsample: Upsample,
    generator: Generators = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    on_stage: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "batch channels frames height width"]:
    """Sample clean latents on the last grid of a schedule.

    Every stage but the first starts from the last one's clean latents, upsampled and then noised afresh;
    upsampling noisy latents instead is far outside what the network knows.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.1 and Table 1.

    Args:
        predict_velocity: called with the noisy latents in `dtype`, the stage's sigma and its index; gives
            `noise - x0` of the same shape.
        schedule: noise levels and grids.
        batch_size: clips.
        channels: latent channels.
        upsample: takes clean latents to the grid of the next stage: `resize_latents`, or the network that a student
            was trained with. There is no default, since another one than in training makes other clips.
        generator: source of all noise; one for each clip makes a clip independent of its neighbours.
        dtype: precision that `predict_velocity` is given; everything else is float32.
        device: where to sample.
        on_stage: called after every stage with its index and its clean latents, on its own grid.

    Returns:
        float32 latents on `schedule.target`.
    """
    shape = (batch_size, channels, *schedule[0].grid.as_tuple())
    noisy_latents = draw_noise(shape, generator=generator, device=device)
    for index, stage in enumerate(schedule):
        velocity = predict_velocity(noisy_latents.to(dtype), stage.sigma, index)
        x0 = x0_from_velocity(noisy_latents, velocity, stage.sigma)
        if on_stage is not None:
            on_stage(index, x0)
        if index + 1 < len(schedule):
            following = schedule[index + 1]
            upsampled = upsample(x0, following.grid)
            noise = draw_noise(tuple(upsampled.shape), generator=generator, device=device)
            noisy_latents = add_noise(upsampled, noise, following.sigma)
    return x0


def draw_noise(
    shape: tuple[int, ...], *, generator: Generators = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "batch *rest"]:
    """Standard normal float32 noise, drawn where the generator lives and then moved to `device`.

    A generator on the CPU therefore gives the same noise for every device.

    Args:
        shape: clips first.
        generator: one for all clips, or a sequence with one for each.
        device: where the noise goes.

    Raises:
        ValueError: if there are several generators, but not one for each clip.
    """
    if generator is None:
        return torch.randn(shape, device=device)
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device).to(device)
    if len(generator) != shape[0]:
        raise ValueError(
            f"generator: got {len(generator)} generators, expected {shape[0]}; give one for each clip, or a "
            "single one for all."
        )
    return torch.cat([draw_noise((1, *shape[1:]), generator=one, device=device) for one in generator])
