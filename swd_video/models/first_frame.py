"""Scale-wise clips from a model of any family."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_pixels
from swd_video.core.sampling import Generators, sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import Upsample
from swd_video.models.base import VideoModel


@torch.no_grad()
def sample_clips(
    model: VideoModel,
    schedule: ScaleSchedule,
    prompts: Sequence[str],
    *,
    upsample: Upsample,
    pictures: Float[Tensor, "prompts 3 height width"] | None = None,
    generator: Generators = None,
    transformer: nn.Module | None = None,
    on_stage: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "prompts 3 frames height width"]:
    """Make one clip for each prompt, in a few stages that grow in space and time.

    Args:
        model: any adapter.
        schedule: noise levels and grids, in the model's latents.
        prompts: what to show.
        upsample: takes clean latents to the grid of the next stage, as the student was trained:
            `model.resize_latents`, or its network, such as the scheduler of `load_student` has in `upsample`.
        pictures: in [-1, 1], of the height and width of the last stage: what each clip starts with.
        generator: source of all noise; one for each clip makes a clip independent of its neighbours.
        transformer: a student to run instead of the model's own network.
        on_stage: called after every stage with its index and its clean latents.

    Returns:
        Pixels in [-1, 1].

    Raises:
        ValueError: if there is no prompt, a grid is not legal for the model, or it cannot start from pictures, or
            not from these.
    """
    if not prompts:
        raise ValueError("prompts: got none, expected at least one.")
    schedule.tokens(model.spec.compression)
    prompt_embeds = model.encode_prompt(list(prompts))
    if pictures is not None:
        check_pictures(model, schedule, pictures)

    def predict_velocity(noisy_latents: Tensor, sigma: float, stage_index: int) -> Tensor:
        grid = schedule[stage_index].grid
        first_frame = None if pictures is None else encode_first_frame(model, pictures, grid)
        return model.predict_velocity(
            noisy_latents, sigma, prompt_embeds, transformer=transformer, first_frame=first_frame
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


def encode_first_frame(
    model: VideoModel, pictures: Float[Tensor, "batch 3 _ _"], grid: LatentSize
) -> Float[Tensor, "batch channels 1 height width"]:
    """Clean latents of the pictures that clips on a grid start with, shrunk to its size.

    Args:
        model: encodes them.
        pictures: in [-1, 1], of the size of the last stage.
        grid: of a stage.
    """
    size = model.spec.compression.pixel_size(LatentSize(1, grid.height, grid.width))
    return model.encode_video(resize_pixels(pictures.unsqueeze(2), size))


def check_pictures(
    model: VideoModel, schedule: ScaleSchedule, pictures: Float[Tensor, "batch 3 _ _"]
) -> None:
    """Refuse pictures of another size than the last stage's.

    Raises:
        ValueError: with both sizes in pixels.
    """
    target = model.spec.compression.pixel_size(schedule.target)
    height, width = pictures.shape[2:]
    if (height, width) != (target.height, target.width):
        raise ValueError(
            f"pictures: got {height}x{width} (height x width), expected the {target.height}x{target.width} of the "
            "last stage; crop and resize them first."
        )
