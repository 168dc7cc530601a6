"""Frames to pixels and back."""

import torch

from swd_video.core.pixels import frames_from_pixels, pixels_from_frames


def test_every_value_comes_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8)
    pixels = pixels_from_frames(frames)
    assert (pixels.min(), pixels.max(), pixels.dtype) == (-1, 1, torch.float32)
    assert torch.equal(frames_from_pixels(pixels), frames)


def test_pixels_beyond_the_range_are_its_ends_and_others_the_nearest() -> None:
    pixels = torch.tensor([-3, -1, 0.6 / 127.5 - 1, 1.01, 50], dtype=torch.float64)
    assert frames_from_pixels(pixels).tolist() == [0, 0, 1, 255, 255]
