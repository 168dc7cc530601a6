"""The reference loop with an adapter in it: what pipelines and schedulers are held against."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from swd_video.core.resize import Upsample
from swd_video.core.sampling import Generators, sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel
from swd_video.student.pipeline import encode_first_frame


@torch.no_grad()
def sample_clips(
    model: VideoModel,
    schedule: ScaleSchedule,
    prompts: Sequence[str],
    *,
    upsample: Upsample,
    pictures: Tensor | None = None,
    generator: Generators = None,
    on_stage: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Pixels in [-1, 1], batch channels frames height width; one clip for each prompt."""
    prompt_embeds = model.encode_prompt(list(prompts))

    def predict_velocity(noisy_latents: Tensor, sigma: float, stage: int) -> Tensor:
        first = None if pictures is None else encode_first_frame(model, pictures, schedule[stage].grid)
        attention = schedule[stage].attention
        return model.predict_velocity(
            noisy_latents, sigma, prompt_embeds, first_frame=first, attention=attention
        )

    latents = sample_scalewise(
        predict_velocity,
        schedule,
        batch_size=len(prompts),
        channels=model.spec.latent_channels,
        upsample=upsample,
        generator=generator,
        device=model.device,
        on_stage=on_stage,
    )
    return model.decode(latents).clamp(-1, 1)
