"""Pictures that clips start from: read from files and cut to the size of a clip."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from swd_video.core.grid import PixelSize
from swd_video.core.pixels import pixels_from_frames
from swd_video.data.colours import UNREADABLE, picture_to_rgb
from swd_video.data.containers import VideoError
from swd_video.data.probe import check_avif


def open_picture(path: Path, size: PixelSize) -> Image.Image:
    """Read a picture, shrink it until it just covers a clip, and cut off evenly what hangs over.

    It is turned as its EXIF data says, in sRGB, transparent parts over white.

    Raises:
        ValueError: if there is no such picture, it is animated, nothing says what is white in it, or it is smaller
            than the clip.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Paths start at the script's folder.")
    try:
        with Image.open(path) as file:
            count = getattr(file, "n_frames", 1)
            # What a phone adds to a JPEG (depth, a frame of its video) is no further picture.
            if count > 1 and file.format != "MPO":
                raise ValueError(f"holds {count} pictures, expected one. Save the one that you mean as PNG.")
            if file.format == "AVIF":
                check_avif(path)
            picture = Image.fromarray(picture_to_rgb(file))
    except VideoError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except UNREADABLE:
        raise ValueError(f"{path}: cannot be read as a picture. Save it as PNG or JPEG.") from None
    if picture.width < size.width or picture.height < size.height:
        raise ValueError(
            f"{path}: is {picture.width}x{picture.height} pixels (width x height), expected at least the "
            f"{size.width}x{size.height} of the clip. Take a larger one."
        )
    return fit_picture(picture, size)


def fit_picture(picture: Image.Image, size: PixelSize) -> Image.Image:
    """Shrink a picture until it just covers a clip, and cut off evenly what hangs over."""
    return ImageOps.fit(picture, (size.width, size.height), Image.Resampling.LANCZOS)


def picture_as_pixels(picture: Image.Image) -> Float[Tensor, "1 3 height width"]:
    """A picture as a tensor in [-1, 1]."""
    return pixels_from_frames(torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0))
