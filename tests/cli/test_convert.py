"""`swd-video convert`: what it writes is read back to the same shots."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from swd_video.cli.main import main
from swd_video.studio.script import Script, load_script

FULL = """\
title: "No: 1 # yes"
model: some/student
seed: 9
aspect: 1:1
film: {sound: ../music/song.wav, order: [b, a], crossfade: 0.25, titles: true}
shots:
  - id: 007
    prompt: "a sign '#1': *yes*, -- 1:30, &c; {x}"
    frames: 17
    pick: [3, 1]
    keep: 3
    title: "no"
    trim: [0.2, 0]
    transition: crossfade 1.25
    marker: "TIGER: Hello"
  - {id: a, prompt: 2024, picture: pictures/fish.png, keep: true, transition: cut, size: 64x48}
  - {id: b, prompt: "\U0001f600 ~", seconds: 0.0001, takes: 3, seed: 12, continues: a}
"""


def shots_beside(script: Script, folder: Path) -> tuple[object, ...]:
    """The shots and the film, with their paths from a folder."""
    shots = [
        replace(shot, picture=shot.picture and (folder / shot.picture).resolve()) for shot in script.shots
    ]
    film = script.film and replace(script.film, sound=script.film.sound and script.film.sound.resolve())
    return script.title, script.model, script.seed, film, shots


def test_all_that_a_script_says_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, other = tmp_path / "film", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "film.yaml").write_text(FULL)
    assert main(["convert", str(folder / "film.yaml"), str(other / "film.yml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(other / "film.yml"),
        "shots": 3,
        "warnings": [],
    }
    before, after = load_script(folder / "film.yaml"), load_script(other / "film.yml")
    assert shots_beside(after, other) == shots_beside(before, folder)
    text = (other / "film.yml").read_text()
    assert "picture: ../film/pictures/fish.png" in text, "paths start at the file"
    assert "\n\n  - id: a\n    prompt:" in text, "an empty line stands between shots"

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "link").symlink_to(other)
    assert main(["convert", str(folder / "film.yaml"), str(tmp_path / "deep" / "link" / "linked.yml")]) == 0
    assert (other / "linked.yml").read_text() == text, "from where the file lies, not the link to it"

    assert main(["convert", str(other / "film.yml"), str(folder / "film.yaml"), "--overwrite"]) == 0
    assert shots_beside(load_script(folder / "film.yaml"), folder) == shots_beside(after, other)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("txt", "a tiger, left\na tiger, left\na bee --seconds 2\n"),
        ("csv", 'prompt\n"a tiger, left"\n"a tiger, left"\na bee\n'),
        ("json", '["a tiger, left", "a bee"]'),
        (
            "fountain",
            "Title: Cats\nSeed: 3\n\nEXT. SEA - DAY\n\nA tiger.\n\nTIGER\nHello\n\nCUT TO:\n\nA bee.\n",
        ),
    ],
)
def test_ids_and_seeds_stay(suffix: str, text: str, tmp_path: Path) -> None:
    (tmp_path / f"film.{suffix}").write_text(text)
    assert main(["convert", str(tmp_path / f"film.{suffix}"), str(tmp_path / "other.yaml")]) == 0
    before, after = load_script(tmp_path / f"film.{suffix}"), load_script(tmp_path / "other.yaml")
    assert (after.title, after.shots) == (before.title, before.shots)
    assert [take.seed for take in after.takes()] == [take.seed for take in before.takes()]


def test_files_that_are_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "film.txt").write_text("a bee\n")
    (tmp_path / "film.yaml").write_text("mine\n")
    assert main(["convert", str(tmp_path / "film.txt"), str(tmp_path / "film.yaml")]) == 2
    assert "film.yaml: is there already; give another name" in capsys.readouterr().err
    assert (tmp_path / "film.yaml").read_text() == "mine\n"
    assert main(["convert", str(tmp_path / "film.txt"), str(tmp_path / "film.csv")]) == 2
    assert "film.csv: would be read as another form" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "film.txt"), str(tmp_path / "away" / "film.yaml")]) == 2
    assert f"there is no folder {tmp_path / 'away'}; make it" in capsys.readouterr().err
    # A folder in which nobody, not even root, can make a file.
    assert main(["convert", str(tmp_path / "film.txt"), "/proc/film.yaml"]) == 2
    assert "error: OTHER /proc: cannot be written to: " in capsys.readouterr().err
