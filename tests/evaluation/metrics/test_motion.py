import numpy as np
import pytest

from swd_video.evaluation.clip_store import check_clips
from swd_video.evaluation.metrics.motion import FlowMethod, flicker_score, flow_magnitude


def texture(size: int, seed: int = 0) -> np.ndarray:
    """Smooth random texture, so that flow is defined everywhere."""
    rng = np.random.default_rng(seed)
    grid = np.arange(size)
    picture = np.zeros((size, size))
    for _ in range(30):
        fy, fx = rng.uniform(-0.5, 0.5, size=2)
        picture += np.cos(fy * grid[:, None] + fx * grid[None, :] + rng.uniform(0, 6.28))
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return (255 * picture).astype(np.uint8)


def panning(step: int, frames: int = 5) -> np.ndarray:
    """A camera that moves right by `step` pixels a frame over a texture."""
    grey = texture(160)
    views = [grey[16:144, 10 + step * i : 138 + step * i] for i in range(frames)]
    return np.repeat(np.stack(views)[..., None], 3, axis=-1)


@pytest.mark.parametrize("method", ["dis", "farneback"])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_flow_of_a_pan_is_its_speed(method: FlowMethod, step: int) -> None:
    assert flow_magnitude(panning(step), method) == pytest.approx(step, abs=0.15 + 0.05 * step)


def test_flicker_is_one_for_a_still_and_falls_with_brightness_jumps() -> None:
    still = panning(0)
    assert flicker_score(still) == 1.0
    jumping = np.full((6, 16, 16, 3), 100, dtype=np.uint8)
    jumping[1::2] += 51
    assert flicker_score(jumping) == pytest.approx(1 - 51 / 255)


def test_single_frames_and_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more frames"):
        flow_magnitude(panning(1)[:1])
    with pytest.raises(ValueError, match="got float64"):
        check_clips(panning(1)[None] / 255.0)
