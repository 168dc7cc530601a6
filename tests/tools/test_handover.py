import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.models.loading import VideoSpec, load_pipeline, write_video_spec
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student, load_student
from tools.pocket.handover import finish, main

SCHEDULE = ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)), Stage(0.6, LatentSize(2, 4, 4))))
PROMPTS = ["a bee floating up", "a whale standing still"]


@pytest.fixture
def teacher(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    shutil.copytree(tiny_wan_folder, tmp_path / "teacher")
    write_video_spec(tmp_path / "teacher", VideoSpec(fps=12.0, training_size=PixelSize(5, 32, 32)))
    return tmp_path / "teacher"


@pytest.fixture
def student(tmp_path: Path, teacher: Path) -> Path:
    transformer = load_pipeline(str(teacher)).transformer
    made = Student(str(teacher), ScaleWiseFlowMatchScheduler.from_schedule(SCHEDULE))
    made.save(tmp_path / "student", transformer)
    return tmp_path / "student"


def test_from_the_first_stage_it_is_sampling_and_later_it_starts_from_what_it_is_given(student: Path) -> None:
    pipe = load_student(student)
    given = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def clips(first: int, pixels: torch.Tensor) -> np.ndarray:
        return finish(pipe, first, pixels, PROMPTS, torch.Generator().manual_seed(0))

    sampled = pipe(prompt=PROMPTS, generator=torch.Generator().manual_seed(0), output_type="np").frames
    assert np.abs(clips(0, given) - np.asarray(sampled) * 255).max() <= 1
    assert np.array_equal(clips(0, given), clips(0, -given))
    assert not np.array_equal(clips(1, given), clips(1, -given))


def test_the_command_gives_a_share_of_the_flow_for_every_stage(
    student: Path, teacher: Path, pocket_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        str(student),
        "--teacher",
        str(teacher),
        "--steps",
        "2",
        "--count",
        "4",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main([*words, "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)
    assert list(shares) == ["1", "2"]
    for share in shares.values():
        assert share["clips"]["low"] <= share["clips"]["value"] <= share["clips"]["high"]
        assert len(share["frame_to_frame"]) == 4
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "from stage 2: " in out and "  frame to frame: " in out


def test_a_student_of_another_size_is_refused(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(student), "--teacher", "pocket-wan"]) == 2
    assert "its clips are 5x32x32, the teacher's 17x96x96" in capsys.readouterr().err
