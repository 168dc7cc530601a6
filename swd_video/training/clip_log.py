"""Moving pictures in TensorBoard: it plays an animated GIF where it is given one for an image."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

_MOST_PX = 192


def add_clip(
    writer: Any, tag: str, frames: UInt8[np.ndarray, "frames height width 3"], fps: float, step: int
) -> None:
    """Write a clip, shrunk to 192 pixels of height at most."""
    images = [Image.fromarray(frame) for frame in frames]
    shrink = min(1.0, _MOST_PX / images[0].height)
    size = (max(1, round(images[0].width * shrink)), max(1, round(images[0].height * shrink)))
    images = [image.resize(size) for image in images]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
    )
    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=buffer.getvalue())
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
