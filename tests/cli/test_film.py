"""`swd-video film` from its arguments to its exit code."""

import json
import shutil
from pathlib import Path

import pytest

from swd_video.cli.main import main

SCRIPT = """\
shots:
  - {id: one, prompt: first, title: The first}
  - {id: two, prompt: second}
film: {titles: true}
"""


@pytest.fixture(scope="module")
def rendered(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    (folder / "script.yaml").write_text(SCRIPT)
    arguments = ["--out", str(folder / "out"), "--model", str(student_folder), "--device", "cpu"]
    assert main(["render", str(folder / "script.yaml"), *arguments]) == 0
    return folder


@pytest.fixture
def folder(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "film"))


def test_a_film_is_made_of_the_folder_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    assert main(["film", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == (
        f"2 clips, 50 frames, 3.125 s, 41 frames encoded again, as it was: {out / 'film.mp4'}, {out / 'player.html'}\n"
    )
    assert told.err == ""


def test_an_edited_script_and_flags_change_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, script = folder / "out", folder / "script.yaml"
    script.write_text(SCRIPT.replace("titles: true", "order: [two, one, two]"))
    assert main(["film", str(out), str(script), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [clip["id"] for clip in printed["clips"]] == ["two", "one", "two"]
    assert (printed["frames"], printed["made"], printed["film"]) == (27, True, str(out / "film.mp4"))
    assert (
        main(["film", str(out), str(script), "--order", "one", "two", "--crossfade", "0.25", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["frames"] == 9 + 9 - 4


def test_what_no_shot_names_any_more_is_told_and_tidied(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, script = folder / "out", folder / "script.yaml"
    script.write_text("shots:\n  - {id: two, prompt: second}\n")
    assert main(["film", str(out), str(script)]) == 0
    assert "takes that no shot names any more: one. --tidy moves them" in capsys.readouterr().err
    assert main(["film", str(out), str(script), "--tidy"]) == 0
    assert {path.name for path in (out / "unused").iterdir()} == {"one.mp4", "one.webp", "one.json"}
    assert not (out / "one.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere"], "nowhere: no such folder. Name one that `swd-video render` has filled."),
        (["."], "render.json: no record of clips. Render a script into this folder first."),
        (["out", "none.yaml"], "none.yaml: no such script. Check the path."),
        (["out", "--order", "thee"], "error: --order: 'thee' is the id of no shot."),
        (["out", "script.yaml", "--order", "thee"], "error: --order: 'thee' is the id of no shot."),
        (["out", "--crossfade", "-1"], "--crossfade: expected seconds from 0, such as 0.5, got -1."),
        (["out", "--sound", "none.wav"], "error: --sound: none.wav: No such file or directory. Name a sound"),
        (["out", "--sound", "script.yaml"], "error: --sound: script.yaml: cannot be read as sound: "),
        (["out", "--crossfade", "9"], "error: --crossfade: one has 9 frames"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(folder)
    before = (folder / "out" / "film.mp4").read_bytes()
    assert main(["film", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert problem in told
    assert (folder / "out" / "film.mp4").read_bytes() == before
