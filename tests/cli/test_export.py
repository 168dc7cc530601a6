"""The export command: what it says, where it takes its figures from, and how it fails."""

import json
from pathlib import Path

import pytest
import yaml

from swd_video.cli.main import main
from swd_video.core.schedule import ScaleSchedule


@pytest.fixture
def run_folder(student_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path) -> Path:
    """The folder of a run: a student, and the records of its training beside it."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "student").symlink_to(student_folder)
    summary = {"student": "run/student", "steps": 70, "seconds": 9.5, "seconds_per_step": 0.14, "loss": 0.3}
    (run / "train.json").write_text(json.dumps(summary | {"stage_losses": [0.1, 0.2, None]}))
    config = {
        "data": {"cache": "somewhere/private"},
        "schedule": tiny_schedule.as_dict(),
        "train": {"kind": "full", "lr": 2e-4, "steps": 70},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_a_run_becomes_a_folder_with_a_card_of_its_figures(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    arguments = ["export", str(run_folder / "student"), "--out", str(out), "--license", "mit", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["folder"] == str(out) and report["form"] == "merged" and report["pushed"] is None
    assert {"README.md", "model_index.json", "scheduler/scheduler_config.json"} <= report["files"].keys()
    assert report["license"] == "mit" and "licence" not in captured.err
    card = (out / "README.md").read_text()
    for line in ("| steps | 70 |", "| loss of stage 3 | never trained |", "| `train.lr` | 0.0002 |"):
        assert line in card
    assert "private" not in card and "log_every" not in card


def test_wrong_input_is_one_line(
    student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    out, student = str(tmp_path / "out"), str(student_folder)
    for arguments, message in (
        ([str(tmp_path / "none"), "--out", out], "does not exist"),
        ([student, "--out", out, "--form", "lora"], "--form lora"),
        ([student, "--out", out, "--base", "teacher"], "--base teacher: expected a hub name"),
        ([student, "--out", out, "--push", "me/it"], "give its hub name with --base"),
        ([student, "--out", out, "--push", "me/it", "--base", "me/teacher"], "not logged in"),
    ):
        assert main(["export", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith("error: ") and message in captured.err
    assert not (tmp_path / "out").exists()


def test_a_shipped_student_has_the_licence_of_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pocket"
    assert main(["export", "pocket-wan-swd", "--out", str(out)]) == 0
    assert "merged of a student of pocket-wan" in capsys.readouterr().err
    card = (out / "README.md").read_text()
    assert "license: apache-2.0" in card and "base_model" not in card.split("---")[1]
    assert json.loads((out / "video_spec.json").read_text())["fps"] == 12
