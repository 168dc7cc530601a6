"""Pictures that clips start with."""

from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_pixels
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel


def encode_first_frame(
    model: VideoModel, pictures: Float[Tensor, "batch 3 _ _"], grid: LatentSize
) -> Float[Tensor, "batch channels 1 height width"]:
    """Clean latents of the pictures that clips on a grid start with, shrunk to its size.

    Pictures lie in [-1, 1] and have the size of the last stage.
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
