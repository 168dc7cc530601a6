"""Video files made at test time: each with a property that decoders are known to stumble over."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

Pictures = np.ndarray


def draw(num_frames: int, height: int, width: int) -> Pictures:
    """Discs that move over a gradient: every frame differs from every other, and top from bottom, left from right."""
    rows, columns = np.mgrid[:height, :width]
    pictures = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        picture = pictures[index]
        picture[..., 0] = columns * 255 // width
        picture[..., 1] = rows * 255 // height
        picture[..., 2] = 100
        for disc, colour in enumerate([(250, 30, 30), (30, 60, 250), (240, 240, 60)]):
            x, y = (disc * width / 3 + 3 * index) % width, (disc * height / 3 + 2 * index + 5) % height
            picture[(columns - x) ** 2 + (rows - y) ** 2 < (height / 7) ** 2] = colour
    return pictures


def write_file(
    path: Path,
    pictures: Pictures,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    fps: int = 24,
    options: dict[str, str] | None = None,
    milliseconds: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, 1000),
    rotation: float = 0,
    hflip: bool = False,
    num_streams: int = 1,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Encode a file straight through PyAV, not through the code under test."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as file:
        streams = [file.add_stream(codec, rate=fps) for _ in range(num_streams)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], pixel_format
            stream.options = {"crf": "18", **(options or {})}
            if pixel_aspect is not None:
                stream.sample_aspect_ratio = pixel_aspect
            if milliseconds is not None:
                stream.codec_context.time_base = stream.time_base = tick
            if rotation or hflip:
                stream.set_display_rotation(rotation, hflip=hflip)
        for index, picture in enumerate(pictures):
            for number, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(picture if number == 0 else 255 - picture, format="rgb24")
                if milliseconds is not None:
                    frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def pictures() -> Callable[[int, int, int], Pictures]:
    """`pictures(num_frames, height, width)` draws a moving scene."""
    return draw


@pytest.fixture(scope="session")
def encode_file() -> Callable[..., Path]:
    """`encode_file(path, pictures, ...)` writes a video; see `write_file`."""
    return write_file


@pytest.fixture(scope="session")
def emoji() -> Path:
    """Folder of real animated WebP files with transparency."""
    return Path(__file__).parent / "files"
