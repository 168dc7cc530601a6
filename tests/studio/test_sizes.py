"""Sizes and lengths of shots: what a student of 9x48x64 pixels at 16 frames a second makes of what is asked for."""

import pytest

from swd_video.studio.clips import plan_clips
from swd_video.studio.model import ScriptModel
from swd_video.studio.yaml_script import parse_script
from swd_video.yaml_source import SourceError

SHOT = "shots:\n- id: a\n  prompt: a tiger\n"


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ("", (9, 48, 64)),
        ("  seconds: 0.3", (5, 48, 64)),
        ("  frames: 13", (13, 48, 64)),
        ("  size: 96x32", (9, 32, 96)),
        ("  size: 64 × 48", (9, 48, 64)),
        ("  aspect: 4:3", (9, 48, 64)),
        ("  aspect: 1:1", (9, 48, 48)),
        ("  aspect: 2:1", (9, 32, 64)),
        ("  aspect: 3:5", (9, 80, 48)),
    ],
)
def test_a_shot_gets_the_size_that_it_asks_for(
    keys: str, size: tuple[int, int, int], loaded: ScriptModel
) -> None:
    clip = plan_clips(parse_script(SHOT + keys, "film.yaml"), loaded)[0]
    assert clip.size.as_tuple() == size
    assert clip.stages[-1][1] == clip.size, "the schedule grows to it"
    assert clip.stages[0][1].height < clip.size.height


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "  seconds: 0.43",
            ".seconds: 0.43 seconds are 6.88 frames at 16 frames a second, which MODEL cannot make. Nearest lengths: "
            "0.3125 (5 frames) or 0.5625 (9 frames). Its native one is 0.5625 (9 frames): drop the key to get that.",
        ),
        (
            "  frames: 8",
            ".frames: 8 frames are a length that MODEL cannot make. Nearest lengths: 5 (0.3125 seconds) or 9 (0.5625 "
            "seconds). Its native one is 9 (0.5625 seconds): drop the key to get that.",
        ),
        (
            "  size: 90x64",
            ".size: 90x64 (width x height) is a size that MODEL cannot make: widths are multiples of 16 and heights of "
            "16. Nearest sizes: 96x64 or 80x64. Its native one is 64x48: drop the key to get that.",
        ),
        (
            "  size: 8x8",
            ".size: 8x8 (width x height) is a size that MODEL cannot make: widths are multiples of 16 and heights of "
            "16. Nearest sizes: 16x16. Its native one is 64x48: drop the key to get that.",
        ),
        (
            "  aspect: 7:5",
            ".aspect: MODEL makes no clips of the shape 7:5 with between half and twice the pixels of its native 64x48 "
            "(width x height). The nearest of that many is 64x48: give it as `size`.",
        ),
        (
            "  trim: 0.25, 0.3",
            ".trim: cuts 0.25 and 0.3 seconds off a clip of 0.5625, which leaves no frame. Cut off less.",
        ),
    ],
)
def test_what_a_model_cannot_make_is_refused_with_what_it_can(
    keys: str, message: str, loaded: ScriptModel
) -> None:
    model = loaded
    with pytest.raises(SourceError) as caught:
        plan_clips(parse_script(SHOT + keys, "film.yaml"), model)
    assert str(caught.value) == f"film.yaml:4: shots[0]{message}".replace("MODEL", model.name)
