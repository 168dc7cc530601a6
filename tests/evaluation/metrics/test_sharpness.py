import cv2
import numpy as np
import pytest

from swd_video.evaluation.metrics.sharpness import sharpness


def test_a_board_of_single_pixels_has_the_laplacian_of_four_steps_each_way() -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 10
    frames = np.repeat(board[None, ..., None], 3, axis=-1).repeat(2, axis=0).astype(np.uint8)
    # Borders are mirrored, so every pixel has four neighbours that differ by 10.
    assert sharpness(frames) == pytest.approx(40)


def test_blurring_takes_it_and_a_flat_picture_has_none() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1) for frame in noise])
    assert sharpness(blurred) < 0.2 * sharpness(noise)
    assert sharpness(np.full((2, 8, 8, 3), 7, dtype=np.uint8)) == 0


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more frames"):
        sharpness(np.zeros((1, 8, 8, 3), dtype=np.uint8))
