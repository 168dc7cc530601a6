"""The table of docs/pocket-tables.md: its config's targets and composed clips, with tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from swd_video.cli.main import main
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.evaluation.attribute_judge import AttributeJudge
from swd_video.models.loading import load_pipeline
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student
from tools.pocket.corpus import split_of
from tools.pocket.judge import CLASSES, deviations_of_readings
from tools.pocket.rows import ComposedClips, evaluation_specs

SIZE = PixelSize(5, 32, 32)


@pytest.fixture
def judge_folder(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AttributeJudge(
            CLASSES, readings=deviations_of_readings(), input_frames=5, input_size_px=16, width=4
        ).save(tmp_path / "judge")
    return tmp_path / "judge"


@pytest.fixture
def students(tmp_path: Path, tiny_wan_folder: Path) -> dict[str, Path]:
    """The teacher's own weights with two schedules: same size throughout, and growing."""
    transformer = load_pipeline(str(tiny_wan_folder)).transformer
    target = LatentSize(2, 4, 4)
    schedules = {
        "full": ScaleSchedule((Stage(1.0, target), Stage(0.6, target))),
        "grow": ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)), Stage(0.6, target))),
    }
    for name, schedule in schedules.items():
        made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(schedule))
        made.save(tmp_path / name, transformer)
    return {name: tmp_path / name for name in schedules}


PROMPTED = {"kind": "tools.pocket.rows:ComposedClips", "split": "final", "seed": 1, "count": 4}


@pytest.fixture
def config(
    tiny_wan_folder: Path,
    judge_folder: Path,
    students: dict[str, Path],
    small_encoders: dict[str, str],
    tmp_path: Path,
) -> dict[str, Any]:
    """The shipped config, with small models in its rows."""
    (tmp_path / "prompts.txt").write_text(
        "\n".join(s.caption for s in evaluation_specs("final", 1, 4, 2)[::2])
    )
    prompted, teacher = {**PROMPTED, "samples_per_prompt": 2}, str(tiny_wan_folder)
    rows = [
        {"kind": "real", "key": "real", "clips": prompted},
        {"kind": "real", "key": "codec", "clips": prompted, "through_vae_of": teacher},
        {"kind": "teacher", "key": "teacher-50", "model": teacher, "steps": 3, "guidance_scale": 3},
        {"kind": "teacher", "key": "teacher-8", "model": teacher, "steps": 1, "guidance_scale": 3},
        {"kind": "student", "key": "full", "model": str(students["full"])},
        {"kind": "student", "key": "student", "model": str(students["grow"])},
        {"kind": "student", "key": "student-vae", "model": str(students["grow"]), "decoder": "vae"},
    ]
    return {
        "extends": str(Path("configs/pocket/final.yaml").absolute()),
        "prompts_file": str(tmp_path / "prompts.txt"),
        "samples_per_prompt": 2,
        "size": str(SIZE),
        "batch_size": 4,
        "against": ["codec", "teacher-50"],
        "rows": rows,
        "metrics": {
            "judge": str(judge_folder),
            "real_clips": {**PROMPTED, "seed": 1001, "count": 6},
            **small_encoders,
        },
        "cost": {"rounds": 1},
        "page": {"prompts": 1},
    }


def test_one_command_makes_the_whole_table_and_does_no_work_twice(
    pocket_corpus: Path, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "final.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    document = tmp_path / "pocket-tables.md"
    marks = ("<!-- evaluation final: begin -->", "<!-- evaluation final: end -->")
    out = str(tmp_path / "out")
    command = ["evaluate", str(tmp_path / "final.yaml"), "--out", out, "--device", "cpu", "--json"]
    command += ["--document", str(document)]
    assert main(command) == 2 and "no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    document.write_text(f"# Pocket\n{marks[0]}\n{marks[1]}\nrest\n")
    assert main(command) == 0
    table = json.loads(capsys.readouterr().out)
    assert list(table["rows"]) == [row["key"] for row in config["rows"]]
    teacher_row, one, full, grow, _ = list(table["rows"].values())[2:]
    assert teacher_row["adherence_subject"]["count"] == 4
    assert teacher_row["transformer_tflops"] == pytest.approx(3 * one["transformer_tflops"])
    calls = [row["transformer_calls"] for row in (teacher_row, full, grow)]
    assert calls == [6, 2, 2]
    assert grow["transformer_tflops"] < full["transformer_tflops"] < one["transformer_tflops"] * 1.1
    assert table["rows"]["real"]["frechet"]["value"] < grow["frechet"]["value"]
    assert len(table["targets"]) == 3 + 3 + 3 + 4 + 1 + 1
    # Clips that may be nearest are of other prompts here.
    (unknown,) = (target["name"] for target in table["targets"] if target["met"] is None)
    assert "nearest real clip" in unknown
    assert {target["met"] for target in table["targets"]} == {True, False, None}

    text = document.read_text()
    assert text.startswith("# Pocket\n") and text.endswith(f"{marks[1]}\nrest\n")
    assert text.count("| teacher, 3 steps, guidance 3 |") == 1 and "**not met**" in text
    assert "against teacher, 3 steps" in text and "(margin 0.05)" in text and "| floor: two halves" in text
    page = Path(table["page"]).read_text()
    assert page.count(">met</em>") + page.count(">not met</em>") == 14

    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert saved["rows"][0]["clips"] == config["rows"][0]["clips"]
    assert saved["metrics"]["real_clips"] == config["metrics"]["real_clips"] | {"samples_per_prompt": 8}
    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").rglob("*.npz")}
    again = ["evaluate", str(tmp_path / "out" / "config.yaml"), *command[2:-2]]
    assert main(again) == 0
    assert "clips, about" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in clips} == clips


def test_prompts_are_held_out_and_sampled_several_times(pocket_corpus: Path) -> None:
    specs = evaluation_specs("final", 1, 30, 3)
    assert len(specs) == 30 and len({spec.seed for spec in specs}) == 30
    assert {split_of(spec.subject, spec.motion, spec.background) for spec in specs} == {"final"}
    assert [spec.caption for spec in specs[:3]] == [specs[0].caption] * 3
    assert len({spec.caption for spec in specs}) == 10
    clips = ComposedClips(split="final", seed=1, count=30, samples_per_prompt=3)
    assert clips.find() == specs
    assert len({clips.frames(spec, SIZE, 12.0).tobytes() for spec in specs[:3]}) == 3


def test_the_listed_prompts_are_those_of_the_composed_clips() -> None:
    prompts = Path("configs/pocket/final_prompts.txt").read_text().splitlines()
    composed = [spec.caption for spec in evaluation_specs("final", 1, 184, 4)]
    assert sorted(composed) == sorted(4 * prompts)
