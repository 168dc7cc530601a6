import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from swd_video.core.grid import PixelSize
from swd_video.core.interval import Estimate
from swd_video.evaluation.attribute_judge import AttributeJudge
from swd_video.models.loading import VideoSpec, write_video_spec
from tools.pocket.judge import CLASSES
from tools.pocket.study import MARKER, all_runs, load_config_as, main
from tools.pocket.study_tables import StudyConfig, over_seeds

STUDIES = {
    "configs/study/study.yaml": "docs/study.json",
    "configs/larger/study.yaml": "docs/larger.json",
}


@pytest.mark.parametrize(("path", "results"), STUDIES.items())
def test_every_row_of_a_shipped_study_is_a_valid_config_of_its_own(path: str, results: str) -> None:
    study = load_config_as(StudyConfig, Path(path))
    runs = list(all_runs(study, Path(path).parent))
    keys = [run.key for run in runs]
    assert len(set(keys)) == len(keys)
    assert set(json.loads(Path(results).read_text())) <= set(keys)
    students = [run for run in runs if not run.row.teacher_steps]
    configs = {(run.config.model_dump_json(), run.row.data) for run in students}
    assert len(configs) == len(students)
    assert {run.config.train.steps for run in students} == {300}
    assert {run.config.train.batch_size for run in students} == {16}


def test_several_seeds_give_a_mean_and_how_far_they_lie_apart() -> None:
    runs: list[dict[str, Any]] = [
        {"flow": Estimate(value, 0.0, 9.0, 5), "minutes": value} for value in (1.0, 3.0)
    ]
    assert over_seeds(runs[:1]) == runs[0]
    assert over_seeds(runs) == {"flow": Estimate(2.0, 1.0, 3.0, 2), "minutes": Estimate(2.0, 1.0, 3.0, 2)}


@pytest.fixture
def study(
    tmp_path: Path, tiny_wan_folder: Path, pocket_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command line of a study of the tiny teacher, without students; three steps stand for fifty."""
    monkeypatch.setattr("tools.pocket.study.BASELINE_STEPS", 3)
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_wan_folder, teacher)
    write_video_spec(teacher, VideoSpec(fps=12.0, training_size=PixelSize(5, 32, 32)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AttributeJudge(CLASSES, input_frames=5, input_size_px=16, width=4).save(tmp_path / "judge")
    config = {
        "model": str(teacher),
        "data": {"cache": str(tmp_path / "none")},
        "schedule": [{"sigma": 1.0, "frames": 2, "height": 4, "width": 4}],
        "train": {"kind": "full"},
    }
    rows = [
        {"name": "t3", "title": "teacher, 3", "teacher_steps": 3},
        {"name": "s", "title": "student"},
        {"name": "t2", "title": "teacher, 2", "teacher_steps": 2},
    ]
    groups = {"groups": [{"title": "All", "config": "base.yaml", "rows": rows}]}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(groups))
    (tmp_path / "study-tables.md").write_text(f"<!-- {MARKER}: begin -->\n<!-- {MARKER}: end -->\n")
    paths = {
        name: tmp_path / name for name in ("study.yaml", "study.json", "study-tables.md", "judge", "out")
    }
    flags = ("--study", "--results", "--docs", "--judge", "--out")
    words = [word for flag, path in zip(flags, paths.values(), strict=True) for word in (flag, str(path))]
    return [*words, "--count", "4", "--reference-count", "6"]


def test_what_is_known_is_not_made_again_and_what_fails_stops_nothing(
    study: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(study) == 1  # the student has no clips to learn from
    assert "s-0: swd-video distill" in capfd.readouterr().err
    known = json.loads((tmp_path / "study.json").read_text())
    assert list(known) == ["t3-0", "t2-0"]
    assert known["t3-0"]["figures"]["flow"]["value"] == 1.0
    table = (tmp_path / "study-tables.md").read_text()
    assert "| teacher, 3 (`t3`) |" in table and "| student (`s`): not run yet |" in table

    assert known["t3-0"]["split"] == "choose" and "differences" not in known["t3-0"]
    second = known["t2-0"]
    assert second["against"] == "t3-0" and set(second["differences"]) >= {"kernel", "flow", "spread"}
    flow = second["figures"]["flow"]["value"] - 1.0
    assert second["differences"]["flow"]["value"] == pytest.approx(flow)
    assert "Differences from the first row:" in table and "† |" not in table

    known["t3-0"]["figures"]["flow"]["value"] = 7.0
    newer = {"digest": "0", "figures": {"flow": 1.0}}  # of a study with more rows
    # Judged under the old rule, and again, since it needs no training.
    old = {"t2-0": {"digest": second["digest"], "figures": {"flow": 1.0}}}
    (tmp_path / "study.json").write_text(json.dumps(known | old | {"new-0": newer}))
    assert main([*study, "--rows", "t3", "t2"]) == 0
    assert json.loads((tmp_path / "study.json").read_text()) == known | {"new-0": newer}
    assert "7.00" in (tmp_path / "study-tables.md").read_text()
    assert main([*study, "--rows", "s", "--guidance", "4"]) == 1  # another question
    assert "7.00" not in (tmp_path / "study-tables.md").read_text()
    assert "t3-0" in json.loads((tmp_path / "study.json").read_text())  # until it is answered
    assert main([*study, "--rows", "t3", "s", "--guidance", "4"]) == 1
    assert json.loads((tmp_path / "study.json").read_text())["t3-0"]["figures"]["flow"]["value"] == 1.0


def test_what_is_known_of_a_teacher_that_is_not_here_stays(
    study: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (tmp_path / "study.yaml").read_text()
    rows = yaml.safe_load(text)
    rows["groups"][0]["rows"][1]["set"] = {"model": str(tmp_path / "gone" / "teacher")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(rows))
    known = {"s-0": {"digest": "0", "figures": {"flow": 0.25}}}
    (tmp_path / "study.json").write_text(json.dumps(known))
    assert main([*study, "--rows", "s"]) == 0
    assert "| student (`s`) † |" in (tmp_path / "study-tables.md").read_text()
    assert "0.25" in (tmp_path / "study-tables.md").read_text()

    (tmp_path / "study.json").unlink()
    assert main([*study, "--rows", "s"]) == 1
    assert f"there is no model {tmp_path}/gone/teacher yet" in capfd.readouterr().err


def test_a_run_that_another_command_is_at_is_left_to_it(study: list[str], tmp_path: Path) -> None:
    locks = tmp_path / "out" / "locks"
    locks.mkdir(parents=True)
    with FileLock(locks / "t3-0"):
        assert main([*study, "--rows", "t3"]) == 0
    assert json.loads((tmp_path / "study.json").read_text()) == {}
    assert main([*study, "--rows", "t3"]) == 0
    assert list(json.loads((tmp_path / "study.json").read_text())) == ["t3-0"]


def test_a_row_that_does_not_exist_is_refused(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*study, "--rows", "sharp"]) == 2
    assert "has no row sharp" in capsys.readouterr().err
