"""Films: the frames, the sound and the files that a script asks for, and nothing encoded that need not be."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from swd_video.data.video import probe_video, read_video
from swd_video.files import alone_in
from swd_video.studio.check import check
from swd_video.studio.film import make_film
from swd_video.studio.film_pictures import cut_titles, draw_card
from swd_video.studio.film_plan import plan_film
from swd_video.studio.film_record import script_of_folder
from swd_video.studio.render import render
from swd_video.studio.script import FilmSettings
from swd_video.studio.yaml_script import parse_script
from swd_video.yaml_source import SourceError

from .conftest import SCRIPT as RENDERED_SCRIPT
from .film_folder import SCRIPT, pictures, write_folder, write_take

WITH_FILM = SCRIPT + "film:\n  sound: tone.wav\n  crossfade: 0.25\n  titles: true\n"


def frames_of(folder: Path) -> np.ndarray:
    return read_video(folder / "film.mp4")[0]


def means(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1, 3).mean(axis=1)


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are the same but for what encoding changes."""
    return float(np.abs(one.astype(float) - other).mean()) < 8


def test_cuts_copy_clips_as_they_are(tmp_path: Path) -> None:
    film = make_film(write_folder(tmp_path), tmp_path)
    assert (film["frames"], film["encoded_frames"], film["seconds"]) == (51, 0, 51 / 16)
    clips = [read_video(tmp_path / f"{name}.mp4")[0] for name in ("red", "green", "blue")]
    assert np.array_equal(frames_of(tmp_path), np.concatenate(clips))
    video = probe_video(tmp_path / "film.mp4")
    assert (video.codec, video.frames, video.width, video.height, video.fps) == ("h264", 51, 64, 48, 16)


def test_order_trims_and_crossfades_are_as_asked(tmp_path: Path) -> None:
    text = SCRIPT.replace("a blue wall", "a blue wall, trim: [0.25, 0.125], transition: crossfade 0.25")
    script = write_folder(tmp_path, text + "film: {order: [green, blue, red]}\n")
    film = make_film(script, tmp_path)
    assert [clip["id"] for clip in film["clips"]] == ["green", "blue", "red"]
    assert [clip["at_frame"] for clip in film["clips"]] == [0, 13, 24]
    assert [(clip["first_frame"], clip["frames"]) for clip in film["clips"]] == [(0, 17), (4, 11), (0, 17)]
    frames = frames_of(tmp_path)
    assert len(frames) == film["frames"] == 17 + 11 - 4 + 17
    green, blue, red = pictures("green"), pictures("blue"), pictures("red")
    assert all(near(*pair) for pair in zip(frames[:13], green[:13], strict=True))
    for number in range(4):
        mixed = green[13 + number] * (1 - (number + 1) / 5) + blue[4 + number] * ((number + 1) / 5)
        assert near(frames[13 + number], mixed)
    assert all(near(*pair) for pair in zip(frames[17:24], blue[8:15], strict=True))
    assert np.array_equal(frames[24:], read_video(tmp_path / "red.mp4")[0])
    assert all(near(*pair) for pair in zip(frames[24:], red, strict=True))
    assert film["encoded_frames"] < 13 + 11, "the beginning of green is copied"


def test_a_picture_that_a_clip_repeats_is_shown_once(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    sidecar = json.loads((tmp_path / "green.json").read_text())
    (tmp_path / "green.json").write_text(json.dumps({**sidecar, "joins": {"clip": "red"}}))
    assert make_film(script, tmp_path)["frames"] == 51, "nobody knows what is repeated"
    (tmp_path / "green.json").write_text(json.dumps({**sidecar, "joins": {"clip": "red", "drop_frames": 1}}))
    film = make_film(script, tmp_path)
    assert [(clip["first_frame"], clip["frames"]) for clip in film["clips"]] == [(0, 17), (1, 16), (0, 17)]
    assert all(near(*pair) for pair in zip(frames_of(tmp_path)[17:33], pictures("green")[1:], strict=True))
    for settings in (FilmSettings(order=("blue", "green")), FilmSettings(crossfade=0.25)):
        assert make_film(replace(script, film=settings), tmp_path)["clips"][1]["first_frame"] == 0


def test_a_picked_take_is_shown_the_scripts_before_the_folders(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    (tmp_path / "picks.json").write_text('{"green": [2]}')
    assert make_film(script, tmp_path)["clips"][1]["file"] == "green-take2.mp4"
    own = replace(script.shots[1], pick=(1, 2))
    script = replace(script, shots=(script.shots[0], own, script.shots[2]))
    assert make_film(script, tmp_path)["clips"][1]["file"] == "green.mp4"


def test_titles_are_read_on_the_film(tmp_path: Path) -> None:
    text = SCRIPT.replace("a blue wall", "a blue wall, title: Sea")
    script = write_folder(tmp_path, text)
    lines: list[str] = []
    make_film(script, tmp_path, say=lines.append)
    assert lines == ["titles are not shown, as the film does not ask for them: blue."]
    plain = frames_of(tmp_path)
    film = make_film(replace(script, film=FilmSettings(titles=True)), tmp_path)
    frames = frames_of(tmp_path)
    assert film["title_frames"] == 32
    assert len(frames) == 32 + 51
    assert frames[0].max() > 200, "white letters"
    assert np.median(frames[0]) < 20, "on black"
    assert np.array_equal(frames[32 : 32 + 34], plain[:34]), "shots without a title are copied"
    titled, before = frames[-10].astype(int), plain[-10].astype(int)
    changed = np.abs(titled - before).max(axis=-1) > 60
    assert changed[30:].sum() > 20, "letters in the lower part"
    assert not changed[:20].any(), "and in no other"


def test_sound_lasts_as_long_as_the_film(tmp_path: Path, make_tone: Callable[[float], Path]) -> None:
    make_tone(1.5)
    script = write_folder(tmp_path, SCRIPT + "film: {sound: tone.wav}\n")
    assert make_film(script, tmp_path)["sound"] == "tone.wav"
    with av.open(str(tmp_path / "film.mp4")) as container:
        (track,) = container.streams.audio
        assert sum(packet.duration or 0 for packet in container.demux(track)) - 1024 == 51 * 48_000 // 16
    with av.open(str(tmp_path / "film.mp4")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert np.abs(heard[60_000:70_000]).max() > 0.2
    assert np.abs(heard[75_000:]).max() < 0.01


def test_clips_of_another_size_or_rate_are_fitted_in_and_said(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    write_take(tmp_path, script, "blue", pictures("blue", 12, (32, 64)), 12.0)
    lines: list[str] = []
    film = make_film(script, tmp_path, say=lines.append)
    assert lines == [
        "blue has 64x32 pixels, the film 64x48: it is fitted in and encoded again.",
        "blue has 12 frames a second, the film 16: it is encoded again.",
    ]
    assert (film["frames"], film["encoded_frames"]) == (17 + 17 + 16, 16)
    last = frames_of(tmp_path)[-1]
    assert last[:7].max() < 20, "a black bar above"
    assert last[-7:].max() < 20, "and below"
    assert near(last[8:40], pictures("blue", 12, (32, 64))[-1])


def test_a_clip_of_uneven_times_is_shown_as_it_plays(tmp_path: Path) -> None:
    script = write_folder(tmp_path, SCRIPT.replace("a blue wall", "a blue wall, trim: [0.25, 0.125]"))
    base = Fraction(1, 1000)
    with av.open(str(tmp_path / "blue.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.height, stream.width, stream.time_base, stream.codec_context.time_base = 48, 64, base, base
        for number, picture in enumerate(pictures("blue")):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(number * 62.5) - 25 * (number % 3 == 1), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    film = make_film(script, tmp_path)
    assert (film["fps"], film["frames"], film["encoded_frames"]) == (16, 17 + 17 + 11, 11)
    frames = frames_of(tmp_path)[34:]
    assert all(near(*pair) for pair in zip(frames, pictures("blue")[4:15], strict=True))


def test_a_film_that_is_as_asked_is_left_alone_and_bytes_are_the_same_again(
    tmp_path: Path, make_tone: Callable[[float], Path]
) -> None:
    make_tone(1.0)
    script = write_folder(tmp_path, WITH_FILM)
    names = ["film.mp4", "film.otio", "film.fcpxml", "film.edl", "film.json"]
    assert make_film(script, tmp_path)["made"]
    before = {name: (tmp_path / name).read_bytes() for name in names}
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in names}
    assert not make_film(script, tmp_path)["made"]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names} == times
    (tmp_path / "film.mp4").unlink()
    assert make_film(script, tmp_path)["made"]
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    write_take(tmp_path, script, "blue", pictures("blue")[::-1])
    assert make_film(script, tmp_path)["made"], "another clip, another film"


def test_the_folder_alone_gives_the_same_film_as_the_script(
    tmp_path: Path, make_tone: Callable[[float], Path]
) -> None:
    make_tone(1.0)
    text = WITH_FILM.replace(
        "a blue wall", "a blue wall, title: Sea, trim: [0, 0.25], transition: cut, seed: 7"
    )
    script = write_folder(tmp_path, text)
    assert make_film(script, tmp_path)["made"]
    alone = script_of_folder(tmp_path)
    assert alone.film is not None
    assert not make_film(alone, tmp_path)["made"]


def test_the_folder_alone_shows_what_was_picked_after_it_was_rendered(tmp_path: Path) -> None:
    write_folder(tmp_path)
    record = json.loads((tmp_path / "render.json").read_text())
    del record["shots"][2]  # the run before this one made the second take of green
    (tmp_path / "render.json").write_text(json.dumps(record))
    (tmp_path / "picks.json").write_text('{"green": [2]}')
    lines: list[str] = []
    film = make_film(script_of_folder(tmp_path), tmp_path, say=lines.append)
    assert film["clips"][1]["file"] == "green-take2.mp4" and not lines
    (tmp_path / "picks.json").write_text('{"green": [3]}')
    with pytest.raises(ValueError, match=r"green-take3 is not rendered there yet\. Render the script first"):
        make_film(script_of_folder(tmp_path), tmp_path)


def test_the_folder_alone_shows_what_the_script_picked_rather_than_what_was_picked_there(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path, SCRIPT.replace("takes: 2", "takes: 2, pick: 2"))
    (tmp_path / "picks.json").write_text('{"green": [1]}')
    assert make_film(script_of_folder(tmp_path), tmp_path)["clips"][1]["file"] == "green-take2.mp4"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("a red wall", "a red wall, trim: [0.6, 0.6]", r"yaml:3: shots\[0\]\.trim: cuts off 10 and 10 frames of 17"),
        ("a blue wall", "a blue wall, transition: crossfade 2", r"shots\[2\]\.transition: green has 17 .*0 and 32"),
        ("film:", "film:\n  crossfade: 0.6", r"script\.yaml:7: film\.crossfade: green has 17 frames .* need 10 and 10"),
        ("film:", "film:\n  sound: none.wav", r"script\.yaml:7: film\.sound: .*none\.wav: No such file"),
        ("film:", "film:\n  sound: script.yaml", r"film\.sound: .*script\.yaml: cannot be read"),
        ("film:", "film:\n  sound: red.mp4", r"film\.sound: .*red\.mp4: has no sound in it"),
    ],
)  # fmt: skip
def test_what_cannot_be_filmed_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    text = (SCRIPT + "film:\n  titles: false\n").replace(old, new)
    (tmp_path / "script.yaml").write_text(text)
    script = write_folder(tmp_path, text)
    with pytest.raises(SourceError, match=problem) as caught:
        make_film(script, tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("film.")]


def test_long_titles_have_smaller_letters_and_are_told_where_they_are_cut(tmp_path: Path) -> None:
    long = "a sentence that somebody wrote where a title should be "
    text = SCRIPT.replace("Three colours", long * 9)
    script = replace(write_folder(tmp_path, text), film=FilmSettings(titles=True))
    plan = plan_film(script, tmp_path)
    assert cut_titles(plan) == [
        f"the title {long[:30]!r}... does not fit into 64x48 pixels: its end is cut off."
    ]
    assert cut_titles(replace(plan, size=(480, 832))) == []
    whole, begun = (draw_card(text, (480, 832)) for text in (long * 9, long * 8))
    assert (whole != begun).any(), "the last words are seen"
    assert not whole[:30].any() and not whole[-30:].any(), "in the middle, with a margin"


def test_a_clip_that_is_not_there_is_named(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    (tmp_path / "blue.json").unlink()
    with pytest.raises(ValueError, match=r"blue is not rendered there yet\. Render the script first"):
        make_film(script, tmp_path)
    script = replace(script, film=FilmSettings(order=("red", "green", "red")))
    assert make_film(script, tmp_path)["frames"] == 51


def test_a_clip_of_an_older_prompt_is_told(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    lines: list[str] = []
    make_film(replace(script, seed=9), tmp_path, say=lines.append)
    assert lines[0] == "red was rendered with another seed than the script has now: render it again."


def test_a_clip_that_is_kept_may_be_of_an_older_prompt(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    lines: list[str] = []
    shots = tuple(replace(shot, prompt="a wall", keep=shot.id != "blue") for shot in script.shots)
    film = make_film(replace(script, shots=shots), tmp_path, say=lines.append)
    assert lines == ["blue was rendered with another prompt than the script has now: render it again."]
    assert [clip["prompt"] for clip in film["clips"]] == ["a red wall", "a green wall", "a blue wall"]
    assert "a wall" not in (tmp_path / "film.fcpxml").read_text(), "what is seen was made of another prompt"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("film_settings", {"sound": 4}),
        ("film_settings", {"order": 4}),
        ("seed", None),
        ("trim", [1]),
        ("transition", {}),
    ],
)
def test_a_damaged_record_is_told_in_one_line(tmp_path: Path, key: str, value: Any) -> None:
    write_folder(tmp_path)
    record = json.loads((tmp_path / "render.json").read_text())
    (record if key in ("film_settings", "seed") else record["shots"][0])[key] = value
    (tmp_path / "render.json").write_text(json.dumps(record))
    with pytest.raises(
        SourceError, match=r"render\.json: damaged: .*\. Render the script again, or name it\."
    ):
        script_of_folder(tmp_path)


@pytest.mark.parametrize("missing", ["opentimelineio", "otio_cmx3600_adapter", "otio_fcpx_xml_adapter"])
def test_without_the_extra_there_is_a_film_and_no_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    script = write_folder(tmp_path)
    assert "film.otio" in make_film(script, tmp_path)["files"]
    monkeypatch.setitem(sys.modules, missing, None)
    lines: list[str] = []
    assert set(make_film(script, tmp_path, say=lines.append)["files"]) == {"film.mp4"}
    assert lines == [
        "no timelines for editing programs: pip install 'swd-video[film]' for film.otio, film.fcpxml and film.edl."
    ]
    assert not (tmp_path / "film.otio").exists(), "that of the film before is gone"


KILLED = """
import sys
from pathlib import Path
import swd_video.studio.film as film
from swd_video.files import alone_in
from swd_video.studio.film_record import script_of_folder
folder = Path(sys.argv[1])
pieces = film.film_pieces
def slow(*arguments):
    for piece in pieces(*arguments):
        yield piece
        print("half", flush=True)
        sys.stdin.read()
film.film_pieces = slow
with alone_in(folder):
    film.make_film(script_of_folder(folder), folder)
"""


def test_a_killed_film_leaves_no_half_file(tmp_path: Path) -> None:
    script = write_folder(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.wait()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("film.")]
    with alone_in(tmp_path):
        assert make_film(script, tmp_path)["made"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_rendering_ends_with_the_film(tmp_path: Path, loaded: Any) -> None:
    script = parse_script(RENDERED_SCRIPT + "film: {crossfade: 0.125}\n", tmp_path / "film.yaml")
    lines: list[str] = []
    report = render(script, tmp_path, model=loaded, say=lines.append)
    assert report.as_dict(tmp_path)["film"] == str(tmp_path / "film.mp4")
    assert lines[-1] == "film.mp4: 12 frames, 0.75 s, made"
    assert len(frames_of(tmp_path)) == 9 + 5 - 2
    assert not make_film(script_of_folder(tmp_path), tmp_path)["made"]

    with pytest.raises(SourceError, match=r"film\.crossfade: fish has 5 frames"):
        longer = replace(script, film=replace(script.film, crossfade=0.5))
        render(longer, tmp_path / "other", model=loaded)
    assert not (tmp_path / "other").exists(), "refused before anything is rendered"


def test_a_film_waits_for_clips_that_were_left_out(tmp_path: Path, loaded: Any) -> None:
    script = parse_script(RENDERED_SCRIPT + "film: {titles: false}\n", tmp_path / "film.yaml")
    lines: list[str] = []
    report = render(script, tmp_path, model=loaded, only=["fish"], say=lines.append)
    assert report.film is None
    assert any("no film was made" in line and "tiger is not rendered there yet" in line for line in lines)


def test_a_kept_clip_is_as_long_as_it_is_and_not_as_the_script_says(tmp_path: Path, loaded: Any) -> None:
    render(parse_script(RENDERED_SCRIPT, tmp_path / "film.yaml"), tmp_path, model=loaded)
    shorter = RENDERED_SCRIPT.replace(
        "    prompt: a tiger walking left\n",
        "    prompt: a tiger walking left\n    seconds: 0.3125\n    keep: true\n    trim: [0.375, 0]\n",
    )
    assert shorter != RENDERED_SCRIPT
    script = parse_script(shorter + "film: {}\n", tmp_path / "film.yaml")
    lines: list[str] = []
    assert render(script, tmp_path, model=loaded, say=lines.append).film == "film.mp4"
    assert lines[-1] == "film.mp4: 8 frames, 0.5 s, made"
    found = check(script, tmp_path, model=str(loaded.name)).as_dict()
    assert found["problems"] == []
    tiger, fish, _ = found["clips"]
    assert (tiger["frames"], tiger["seconds"], tiger["kept"]) == (9, 0.5625, True)
    assert (fish["frames"], found["seconds"], "kept" in fish) == (5, 1.1875, False)
