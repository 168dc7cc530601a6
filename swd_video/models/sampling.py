"""Scale-wise clips from a model of any family."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.sampling import Generators, sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel


@torch.no_grad()
def sample_clips(
    model: VideoModel,
    schedule: ScaleSchedule,
    prompts: Sequence[str],
    *,
    generator: Generators = None,
    transformer: nn.Module | None = None,
    on_stage: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "prompts 3 frames height width"]:
    """Make one clip for each prompt, in a few stages that grow in space and time.

    Args:
        model: any adapter.
        schedule: noise levels and grids, in the model's latents.
        prompts: what to show.
        generator: source of all noise; one for each clip makes a clip independent of its neighbours.
        transformer: a student to run instead of the model's own network.
        on_stage: called after every stage with its index and its clean latents.

    Returns:
        Pixels in [-1, 1].

    Raises:
        ValueError: if there is no prompt, or a grid is not legal for the model.
    """
    if not prompts:
        raise ValueError("prompts: got none, expected at least one.")
    check_schedule(model, schedule)
    prompt_embeds = model.encode_prompt(list(prompts))

    def predict_velocity(noisy_latents: Tensor, sigma: float, stage_index: int) -> Tensor:
        return model.predict_velocity(noisy_latents, sigma, prompt_embeds, transformer=transformer)

    latents = sample_scalewise(
        predict_velocity,
        schedule,
        batch_size=len(prompts),
        channels=model.spec.latent_channels,
        generator=generator,
        device=model.device,
        on_stage=on_stage,
    )
    return model.decode(latents).clamp(-1, 1)


def check_schedule(model: VideoModel, schedule: ScaleSchedule) -> None:
    """Refuse schedules with a grid that the model cannot take.

    Raises:
        ValueError: naming the stage and the nearest legal grid.
    """
    for index, grid in enumerate(schedule.grids):
        try:
            grid.tokens(model.spec.compression.patch)
        except ValueError as error:
            raise ValueError(f"schedule.stages[{index}]: {error}") from None
