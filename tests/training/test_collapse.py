"""The alarm: what is measured of clips, and when it rings."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from swd_video.training.collapse import collapse_warning, measure_clips, shares_of
from swd_video.training.samples import add_clip

RED, GREY = (255, 0, 0), (128, 128, 128)


def still(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((3, 4, 6, 3), colour, dtype=np.uint8)


def blinking() -> np.ndarray:
    clip = np.zeros((3, 4, 6, 3), dtype=np.uint8)
    clip[1] = 255
    return clip


def test_known_clips() -> None:
    alike = measure_clips([[still(GREY), still(GREY)]])
    assert alike == {"diversity": 0, "motion": 0, "saturation": 0}
    assert measure_clips([[still(RED)], [still(GREY)]]) == {"motion": 0, "saturation": 0.5}
    assert measure_clips([[blinking()]])["motion"] == 1
    black, white = np.zeros((2, 2, 2, 3), np.uint8), np.full((2, 2, 2, 3), 255, np.uint8)
    three = measure_clips([[black, white, black], [white]])
    assert three["diversity"] == pytest.approx(2 / 3)  # of three pairs, two differ by 1


def test_shares_leave_out_what_the_reference_does_not_have() -> None:
    shares = shares_of({"diversity": 0.1, "motion": 0.2, "saturation": 0.3}, {"motion": 0.4, "saturation": 0})
    assert shares == {"motion": 0.5}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"diversity": 0.6, "motion": 3.0, "saturation": 1.9}, None),
        (
            {"diversity": 0.4, "motion": 0.3},
            "the student's diversity is 40% and its motion is 30% of the teacher's",
        ),
        ({"saturation": 2.1}, "the student's saturation is 210% of the teacher's"),
    ],
)
def test_a_warning_is_one_line(shares: dict[str, float], expected: str | None) -> None:
    warning = collapse_warning(shares, 0.5, "teacher")
    assert (
        warning is None
        if expected is None
        else str(warning).startswith(expected) and "\n" not in str(warning)
    )
    assert collapse_warning(shares, 0.0, "teacher") is None


def test_a_clip_moves_in_tensorboard(tmp_path: Path) -> None:
    frames = np.concatenate([blinking()] * 100, axis=1)  # 400 pixels high
    with SummaryWriter(str(tmp_path)) as writer:
        add_clip(writer, "samples/a light", frames, 10.0, 3)
    log = EventAccumulator(str(tmp_path)).Reload()
    (event,) = log.Images("samples/a light")
    image = Image.open(io.BytesIO(event.encoded_image_string))
    assert event.step == 3 and image.height == 192 == event.height
    assert (image.format, image.n_frames) == ("GIF", 3)
