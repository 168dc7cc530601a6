"""`swd-video check` from its arguments to its exit code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from swd_video.cli.main import main

SCRIPT = """\
a tiger walking left --id tiger --takes 2
a fish staying --id fish --seconds 0.3
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "film.txt"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def check(script: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command and gives its exit code and its object."""

    def run(*more: str, model: Path = student_folder) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main(["check", str(script), "--model", str(model), "--device", "cpu", "--json", *more])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_shots_are_told_as_they_will_be(
    check: Any, script: Path, tmp_path: Path, student_folder: Path
) -> None:
    out = tmp_path / "out"
    code, found = check("--out", str(out))
    assert (code, found["shots"], found["finished"], found["begun"]) == (0, 2, 0, 0)
    assert not out.exists()
    keys = ("id", "take", "line", "frames", "width", "height", "asked_seconds", "seconds", "status")
    assert [tuple(clip[key] for key in keys) for clip in found["clips"]] == [
        ("tiger", 1, 1, 9, 64, 48, None, 0.5625, "to do"),
        ("tiger", 2, 1, 9, 64, 48, None, 0.5625, "to do"),
        ("fish", 1, 2, 5, 64, 48, 0.3, 0.3125, "to do"),
    ]
    assert found["time"]["from"] == "counted" and 0 < found["time"]["seconds"] < 60
    assert 0 < found["memory"]["weights_gib"] < 1 and 0 < found["memory"]["working_gib"] < 1


def test_what_is_there_is_told_and_times_are_taken_from_it(
    check: Any, script: Path, tmp_path: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["render", str(script), "--out", str(out), "--model", str(student_folder), "--device", "cpu"])
        == 0
    )
    code, found = check("--out", str(out))
    assert (code, found["finished"], found["time"]) == (0, 3, None)
    sidecars = {
        name: json.loads((out / f"{name}.json").read_text()) for name in ("tiger", "tiger-take2", "fish")
    }
    made_of = {name: about["content_hash"] for name, about in sidecars.items()}
    assert found["content_hashes"] == made_of
    # Of takes that are there and not asked for as well, whatever the shot asks for now.
    script.write_text(SCRIPT.replace(" --takes 2", "").replace("0.3", "0.5"))
    changed = check("--out", str(out))[1]["content_hashes"]
    assert [name for name in made_of if changed[name] != made_of[name]] == ["fish"]
    report = json.loads((out / "render.json").read_text())
    for entry in report["shots"]:
        for stage in entry["stages"]:
            stage["seconds"] = 1.0
        entry["finish_seconds"] = 2.0 if entry["id"] == "tiger" else 3.0
    (out / "render.json").write_text(json.dumps(report))

    script.write_text(f"{SCRIPT}a bee\na whale --seconds 0.3\na fish --f 13\n")
    code, found = check("--out", str(out))
    assert (found["finished"], found["time"]["from"]) == (3, "measured")
    longer = found["time"]["seconds"] - 5 - 6  # those of sizes that were made before take as long again
    assert 5 < longer < 12, "the other as long as its operations say"
    (out / "render.json").write_text(json.dumps(report | {"machine": "another"}))
    assert check("--out", str(out))[1]["time"]["from"] == "counted"

    capsys.readouterr()
    assert (
        main(["check", str(script), "--out", str(out), "--model", str(student_folder), "--device", "cpu"])
        == 0
    )
    said = capsys.readouterr().out
    assert "  tiger-take2  0.5625 s, 9 frames, 64x48, seed " in said
    assert "0.3125 s, 5 frames (asked for 0.3 s), 64x48" in said
    assert "5 shots, 6 clips of 3.125 s for " in said and ": 3 finished, 3 to do" in said
    assert "memory: " in said and "(counted on " in said


def test_all_problems_are_told_at_their_lines(
    script: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.write_text("a tiger --f 8\na fish\na bee --w 60 --h 48\na whale --i missing.png\na cat\n")
    arguments = ["check", str(script), "--model", str(student_folder), "--device", "cpu"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1:3] for line in lines] == [
        [f"{script}:1", "shots[0].frames"],
        [f"{script}:3", "shots[2].size"],
        [f"{script}:4", "shots[3].picture"],
    ]
    assert "5 shots, 2 clips" in captured.out

    script.write_text("a fish --steps 4\n")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {script}:1: --steps: a student has the stages")


@pytest.mark.parametrize(
    ("film", "problem"),
    [
        ("sound: none.wav", "film.sound: none.wav: No such file or directory."),
        ("crossfade: 0.6", "film.crossfade: tiger has 9 frames for the film"),
    ],
)
def test_a_film_that_render_would_refuse_is_refused(
    film: str,
    problem: str,
    student_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("film.yaml").write_text(
        f"film: {{{film}}}\nshots:\n  - {{id: tiger, prompt: a tiger}}\n  - {{id: fish, prompt: a fish}}\n"
    )
    assert main(["check", "film.yaml", "--model", str(student_folder), "--device", "cpu"]) == 2
    assert f"error: film.yaml:1: {problem}" in capsys.readouterr().err


def test_a_batch_of_none_is_refused(
    script: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(script), "--model", str(student_folder), "--batch", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --batch 0: expected a number of takes")


def test_a_file_in_the_place_of_the_folder_is_refused(
    script: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(script), "--model", str(student_folder), "--out", str(script)]) == 2
    assert capsys.readouterr().err == f"error: --out {script}: is no folder. Choose another one.\n"


def test_no_weights_are_read(
    check: Any, script: Path, student_folder: Path, tiny_wan_folder: Path, tmp_path: Path
) -> None:
    base, student = tmp_path / "base", tmp_path / "student"
    shutil.copytree(tiny_wan_folder, base)
    shutil.copytree(student_folder, student)
    facts = json.loads((student / "student.json").read_text())
    (student / "student.json").write_text(json.dumps(facts | {"base_model": str(base)}))
    for weights in (*base.rglob("*.safetensors"), *student.rglob("*.safetensors")):
        weights.unlink()
    code, found = check(model=student)
    assert (code, len(found["clips"])) == (0, 3)
    expected = check()[1]
    assert found["clips"] == expected["clips"] and found["memory"] == expected["memory"]
