"""Pictures that clips start from: read from files and cut to the size of a clip."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from swd_video.core.grid import PixelSize


def open_picture(path: Path, size: PixelSize) -> Image.Image:
    """Read a picture, shrink it until it just covers a clip, and cut off evenly what hangs over.

    Args:
        path: of a file that Pillow reads; turned as its EXIF data says, transparency dropped.
        size: of the clip.

    Raises:
        ValueError: if there is no such picture, or it is smaller than the clip.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file. Paths start at the script's folder.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"{path}: cannot be read as a picture. Save it as PNG or JPEG.") from None
    if picture.width < size.width or picture.height < size.height:
        raise ValueError(
            f"{path}: is {picture.width}x{picture.height} pixels (width x height), expected at least the "
            f"{size.width}x{size.height} of the clip. Take a larger one."
        )
    return ImageOps.fit(picture, (size.width, size.height), Image.Resampling.LANCZOS)


def read_picture(path: Path, size: PixelSize) -> Float[Tensor, "1 3 height width"]:
    """The same as a tensor in [-1, 1]."""
    picture = torch.from_numpy(np.array(open_picture(path, size)))
    return picture.permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1
