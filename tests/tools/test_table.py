import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.interval import Estimate, bootstrap_ratio, bootstrap_share
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.evaluation.adherence import AttributeJudge
from swd_video.evaluation.clip_store import StoredClips, make_clips
from swd_video.evaluation.results import Results, RowResult
from swd_video.evaluation.rows import Row, teacher_row
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.loading import load_model, load_teacher
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import PixelNetwork, Student
from tools.pocket.corpus import split_of
from tools.pocket.judge import CLASSES
from tools.pocket.rows import MARGINS, composed_row, evaluation_specs
from tools.pocket.table import MARKER, check_targets, main

SIZE = PixelSize(5, 32, 32)


@pytest.fixture
def judge_folder(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AttributeJudge(CLASSES, input_frames=5, input_size_px=16, width=4).save(tmp_path / "judge")
    return tmp_path / "judge"


@pytest.fixture
def students(tmp_path: Path, tiny_wan_folder: Path) -> dict[str, Path]:
    """The teacher's own weights with two schedules: same size throughout, and growing."""
    transformer = load_teacher(str(tiny_wan_folder)).transformer
    target = LatentSize(2, 4, 4)
    schedules = {
        "full": ScaleSchedule((Stage(1.0, target), Stage(0.6, target))),
        "grow": ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)), Stage(0.6, target))),
    }
    for name, schedule in schedules.items():
        made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(schedule))
        made.save(tmp_path / name, transformer)
    return {name: tmp_path / name for name in schedules}


def test_one_command_makes_the_whole_table_and_does_no_work_twice(
    pocket_corpus: Path,
    tiny_wan_folder: Path,
    judge_folder: Path,
    students: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = tmp_path / "pocket-results.md"
    document.write_text(f"# Pocket\n<!-- {MARKER}: begin -->\n<!-- {MARKER}: end -->\nrest\n")
    arguments = [
        *("--teacher", str(tiny_wan_folder), "--judge", str(judge_folder), "--out", str(tmp_path / "out")),
        *(
            "--full-resolution",
            str(students["full"]),
            "--two-step",
            str(students["full"]),
            str(students["full"]),
            "--spatiotemporal",
            str(students["grow"]),
        ),
        *("--docs", str(document), "--size", str(SIZE), "--teacher-steps", "3", "1", "--count", "4"),
        *("--samples-per-prompt", "2"),
        *("--reference-count", "6", "--batch-size", "4", "--rounds", "1", "--json"),
    ]
    assert main(arguments) == 0
    output = capsys.readouterr()
    table = json.loads(output.out)
    assert list(table["rows"]) == [
        "real",
        "codec",
        "teacher-3",
        "teacher-1",
        "full-resolution",
        "two-step-1",
        "two-step-2",
        "spatiotemporal",
    ]
    teacher, one, full, _, _, grow = list(table["rows"].values())[2:]
    assert teacher["flow"]["value"] == 1.0
    assert teacher["adherence_subject"]["count"] == 4
    assert teacher["transformer_tflops"] == pytest.approx(3 * one["transformer_tflops"])
    assert (teacher["transformer_calls"], full["transformer_calls"], grow["transformer_calls"]) == (6, 2, 2)
    assert grow["transformer_tflops"] < full["transformer_tflops"] < one["transformer_tflops"] * 1.1
    assert table["rows"]["real"]["frechet"]["value"] < table["rows"]["spatiotemporal"]["frechet"]["value"]
    assert "transformer_seconds" not in table["rows"]["real"]
    assert len(table["targets"]) == 3 + 6 + 4 + 5 + 2 * 3 + 2
    assert [c["against"] for c in table["comparisons"]] == list(table["rows"])[1:7]

    text = document.read_text()
    assert text.startswith("# Pocket\n") and text.endswith(f"<!-- {MARKER}: end -->\nrest\n")
    assert text.count("| teacher, 3 steps, guidance 3 |") == 1 and "not met" in text
    assert "against teacher, 3 steps" in text and "(margin 0.05)" in text and "| floor: two halves" in text

    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").rglob("*.npz")}
    assert main(arguments) == 0
    assert "clips, about" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in clips} == clips
    assert document.read_text().count("| teacher, 3 steps, guidance 3 |") == 1


def test_a_stopped_row_goes_on_with_the_same_clips(
    pocket_corpus: Path, tiny_wan_folder: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_wan_folder)

    def row_with(guidance: float) -> Row:
        return teacher_row("teacher", "teacher", model, steps=2, guidance_scale=guidance, size=SIZE)

    row = row_with(2.0)
    specs = evaluation_specs("final", 3, 5, 2)
    stored = make_clips(row, specs, tmp_path / "a", seed=3, batch_size=2)
    whole = np.concatenate(list(stored.batches()))
    assert whole.shape == (5, 5, 32, 32, 3) and whole.dtype == np.uint8
    assert len({clip.tobytes() for clip in whole}) == 5
    np.testing.assert_array_equal(stored.clip(3), whole[3])
    (stored.folder / "0001.npz").unlink()
    again = make_clips(row, specs, tmp_path / "a", seed=3, batch_size=2)
    np.testing.assert_array_equal(np.concatenate(list(again.batches())), whole)
    assert row_with(2.5).digest() != row.digest()
    alone = make_clips(row, specs, tmp_path / "b", seed=3, batch_size=1)
    assert np.abs(np.concatenate(list(alone.batches())).astype(int) - whole).max() <= 1


def test_prompts_are_held_out_and_sampled_several_times(pocket_corpus: Path) -> None:
    specs = evaluation_specs("final", 1, 30, 3)
    assert len(specs) == 30 and len({spec.seed for spec in specs}) == 30
    assert {split_of(spec.subject, spec.motion, spec.background) for spec in specs} == {"final"}
    assert [spec.caption for spec in specs[:3]] == [specs[0].caption] * 3
    assert len({spec.caption for spec in specs}) == 10
    frames = composed_row(SIZE).make(specs[:3], [0, 0, 0])
    assert len({clip.tobytes() for clip in frames}) == 3


PROMPTS = tuple(f"prompt {number}" for number in range(40))


def row_of(key: str, gains: dict[str, float], seconds: float, seed: int) -> RowResult:
    """A row whose figures are 1 and these gains in truth, over forty prompts that differ much and rows that do not."""
    hardness = np.random.default_rng(0).uniform(0.5, 1.5, size=40)
    noise = np.random.default_rng(seed)
    figures: dict[str, Any] = {"transformer_seconds": Estimate(seconds, seconds, seconds, 9)}
    for name in ("kernel", "diversity", "spread", "flow"):
        values = hardness * (1 + gains.get(name, 0.0)) * (1 + 0.02 * noise.normal(size=40))
        figures[name] = bootstrap_ratio(values, hardness, resamples=200)
    for name in ("subject", "motion", "background"):
        share = round(40 * (1 + gains.get(name, 0.0)))
        figures[f"adherence_{name}"] = bootstrap_share((np.arange(40) < share).astype(np.int64))
    return RowResult(key, key, figures, StoredClips(Path(), (), 1, PROMPTS, 12.0))


def checks_of(
    *rows: RowResult, margins: dict[str, float] = MARGINS | {"adherence": 0.1}
) -> list[tuple[str, bool]]:
    about = dict.fromkeys(("distances_to", "spread_of", "encoder", "frame_encoder"), "x")
    results = Results(rows, "teacher-50", about, margins=margins)
    return [(check["name"], check["met"]) for check in check_targets(results)]


def test_targets_are_judged_by_the_figures_and_by_paired_differences() -> None:
    teacher, full = row_of("teacher-50", {}, 4.0, 1), row_of("full-resolution", {}, 0.25, 2)
    assert len(checks_of(teacher, full)) == 3
    good = checks_of(teacher, full, row_of("spatiotemporal", {"kernel": -0.1, "flow": 0.1}, 0.1, 3))
    assert len(good) == 3 + 6 + 4 + 5 + 2 and all(met for _, met in good)
    gains = {"kernel": 0.3, "flow": -0.3, "subject": -0.3, "motion": -0.3, "background": -0.3, "spread": -0.3}
    bad = checks_of(teacher, full, row_of("spatiotemporal", gains | {"diversity": -0.3}, 0.15, 3))
    assert not any(met for name, met in bad if not name.startswith("teacher's"))


@pytest.mark.parametrize("gain", [-0.08, 0.0, 0.08])
def test_two_steps_must_be_beaten_by_the_whole_interval(gain: float) -> None:
    rows = [row_of("teacher-50", {}, 4.0, 1), row_of("two-step-1", {}, 0.05, 2)]
    gains = {"kernel": gain, "flow": gain, "spread": gain}
    checks = checks_of(*rows, row_of("spatiotemporal", gains, 0.05, 3))
    ahead = {name: met for name, met in checks if "two-step-1" in name}
    assert [name.split()[-3] for name in ahead] == ["better", "more", "more"]
    assert list(ahead.values()) == [gain < 0, gain > 0, gain > 0]


def test_few_prompts_do_not_make_rows_equal() -> None:
    """All right in both rows: with forty prompts that leaves room for 0.09, which is no 0.05."""
    rows = [row_of("teacher-50", {}, 4.0, 1), row_of("spatiotemporal", {}, 0.05, 3)]
    for margin, met in ((0.05, False), (0.1, True)):
        checks = dict(checks_of(*rows, margins=MARGINS | {"adherence": margin}))
        assert checks[f"student's subject no worse than teacher-50's by {margin}"] == met


def test_what_is_missing_is_said_before_the_work(
    pocket_corpus: Path,
    tiny_wan_folder: Path,
    judge_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--teacher", str(tiny_wan_folder), "--out", str(tmp_path / "out")]
    assert main([*common, "--judge", str(judge_folder), "--docs", str(tmp_path / "none.md")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([*common, "--judge", str(tmp_path / "nobody"), "--docs", "None"]) == 2
    assert "no judge there" in capsys.readouterr().err
    assert main([*common, "--judge", str(judge_folder), "--docs", "None"]) == 2
    assert "--size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_student_that_was_trained_by_a_judging_network_is_refused(
    pocket_corpus: Path,
    tiny_wan_folder: Path,
    tiny_schedule: ScaleSchedule,
    judge_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    transformer = load_teacher(str(tiny_wan_folder)).transformer
    common = ["--teacher", str(tiny_wan_folder), "--judge", str(judge_folder), "--out", str(tmp_path / "out")]
    for encoder in (
        PixelNetwork("its-own", fingerprint_folders([judge_folder])),
        PixelNetwork("efficientnet"),
    ):
        made = Student(
            str(tiny_wan_folder),
            ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule),
            trained_through=(encoder,),
        )
        made.save(tmp_path / "student", transformer)
        rest = ["--two-step", str(tmp_path / "student"), "--docs", "None", "--size", str(SIZE)]
        assert main([*common, *rest]) == 2
        assert "must not judge what it trained" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
