"""Timelines, read back by OpenTimelineIO: the clips in place, with what they are made of."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import opentimelineio as otio
import pytest

from swd_video.studio.film import make_film
from swd_video.studio.film_plan import plan_film
from swd_video.studio.timeline import editing_rate
from swd_video.studio.yaml_script import parse_script

from ..fixtures import write_tone
from .film_folder import SCRIPT, pictures, write_folder, write_take

TEXT = (
    SCRIPT.replace("a blue wall", "a blue wall, trim: [0.25, 0.125], transition: crossfade 0.25, title: Sea")
    .replace("{id: red,", "{id: red, marker: 'ANNA: Hello <there> & \"you\".',")
    .replace("title: Three colours", "title: Ann's & Bob's film")
) + "film: {sound: tone.wav, titles: true}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    write_tone(folder / "tone.wav", 1.0)
    make_film(write_folder(folder, TEXT), folder)
    return folder


def read(path: Path) -> Any:
    return otio.adapters.read_from_file(str(path), **({"rate": 48} if path.suffix == ".edl" else {}))


def seconds(time: Any) -> Fraction:
    return Fraction(int(time.value), int(time.rate))


# Frames of the film: 32 of its title, 17 red, 17 green, 11 blue of which 4 fade in; the cut lies in their middle.
SHOWN = {"red": (0, 17), "green": (0, 15), "blue": (6, 9)}
# An EDL has it at the beginning of a crossfade.
EDL_SHOWN = {"red": (0, 17), "green": (0, 13), "blue": (4, 11)}


@pytest.mark.parametrize(
    ("name", "shown"), [("film.otio", SHOWN), ("film.fcpxml", SHOWN), ("film.edl", EDL_SHOWN)]
)
def test_the_clips_are_in_place(folder: Path, name: str, shown: dict[str, tuple[int, int]]) -> None:
    timeline = read(folder / name)
    assert timeline.name == "Ann's & Bob's film"
    (track,) = timeline.video_tracks()
    clips = list(track.find_clips())
    found = {}
    for clip in clips:
        assert (folder / clip.media_reference.target_url).is_file(), (
            "the path leads from the timeline to the clip"
        )
        start, length = clip.source_range.start_time, clip.source_range.duration
        found[Path(clip.media_reference.target_url).stem] = (seconds(start) * 16, seconds(length) * 16)
    assert found == shown
    if name != "film.edl":  # of which the record times below tell
        at = [track.trimmed_range_of_child(clip).start_time for clip in clips]
        starts = [sum(length for _, length in list(shown.values())[:index]) for index in range(3)]
        assert [seconds(time) * 16 for time in at] == [32 + start for start in starts]
        assert seconds(timeline.duration()) == Fraction(32 + 17 + 17 + 11 - 4, 16)
    lines = [line.split() for line in (folder / "film.edl").read_text().splitlines() if line.startswith("00")]
    assert [(line[7], line[8]) for line in lines if "D" in line] == [("00:00:03:42", "00:00:04:27")]


def test_prompts_seeds_and_takes_travel_along(folder: Path) -> None:
    script = parse_script(TEXT, folder / "script.yaml")
    timeline = read(folder / "film.otio")
    red, _, blue = timeline.find_clips(search_range=None)[:3]
    assert dict(red.metadata["swd_video"]) == {
        "id": "red", "take": 1, "prompt": "a red wall", "seed": next(script.takes()).seed, "model": "some-student"
    }  # fmt: skip
    assert [marker.name for marker in red.markers] == ["a red wall", 'ANNA: Hello <there> & "you".']
    assert [marker.name for marker in blue.markers] == ["a blue wall", "Sea"]
    whole = blue.media_reference.available_range
    assert (seconds(whole.start_time), seconds(whole.duration)) == (0, Fraction(17, 16))

    text = (folder / "film.fcpxml").read_text()
    assert '<md key="swd_video.prompt" value="a red wall" />' in text
    assert 'value="ANNA: Hello &lt;there&gt; &amp; &quot;you&quot;."' in text

    edl = (folder / "film.edl").read_text()
    assert "* FROM CLIP NAME:  red.mp4" in edl
    assert "A RED WALL" in edl


def test_sound_lies_on_a_track_of_its_own(folder: Path) -> None:
    for name in ("film.otio", "film.fcpxml"):
        (track,) = read(folder / name).audio_tracks()
        (sound,) = track.find_clips()
        assert sound.media_reference.target_url == "tone.wav"
        assert seconds(sound.source_range.duration) == 1
        assert track.trimmed_range_of_child(sound).start_time.value == 0


@pytest.mark.parametrize(
    ("fps", "rate"), [(8, 24), (12, 24), (15, 30), (16, 48), (24, 24), (25, 25), (30, 30), (10, 30)]
)
def test_every_frame_lasts_a_whole_number_of_an_editors(fps: int, rate: int) -> None:
    assert editing_rate(Fraction(fps)) == rate


def test_a_rate_that_no_editor_counts_in_has_one_timeline(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    make_film(script, tmp_path)
    for name in ("red", "green", "blue"):
        write_take(tmp_path, script, name, pictures(name), 7)
    film = make_film(script, tmp_path)
    assert set(film["files"]) == {"film.mp4", "film.otio"}
    assert not (tmp_path / "film.edl").exists(), "that of another film is gone"
    assert plan_film(script, tmp_path).fps == 7
    assert editing_rate(Fraction(7)) is None
