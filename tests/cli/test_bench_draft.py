"""`swd-video bench draft`: what it measures, and that a student keeps it without becoming another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

from swd_video.cli.main import main
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.draft_benchmark import compare
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student


def test_what_all_seeds_have_in_common_does_not_count() -> None:
    own = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    shared = 30 * torch.ones(1, 40)
    table = compare(2 * own + shared, own - 7 * shared)
    assert torch.allclose(table.diagonal(), torch.ones(5), atol=1e-4)
    assert table.argmax(dim=1).tolist() == [0, 1, 2, 3, 4]
    assert (table - torch.eye(5)).abs().max() < 0.8


def test_it_is_noted_in_the_folder_and_the_student_stays_the_same(
    tiny_wan_folder: Path,
    tiny_wan_pipe: WanPipeline,
    tiny_schedule: ScaleSchedule,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, prompts = tmp_path / "student", tmp_path / "prompts.txt"
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(folder, tiny_wan_pipe.transformer)
    before = Student.load(folder)
    assert before.draft_stages is None
    prompts.write_text("# two\na cat\n\na dog\n")
    words = ["bench", "draft", str(folder), "--prompts", str(prompts), "--seeds", "2", "--json"]
    assert main([*words, "--look-only"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Student.load(folder).draft_stages is None
    assert (found["stages"], found["prompts"], found["seeds"], found["chance"]) == (3, 2, 2, 0.5)
    assert found["nearest"][-1] == 1 and found["own"][-1] == pytest.approx(1, abs=1e-4)
    assert found["nearest"][found["draft_stages"] - 1] >= 0.9
    assert main(words) == 0
    after = Student.load(folder)
    assert after.draft_stages == found["draft_stages"] and after.fingerprint() == before.fingerprint()
    # It is saved with it, and what cannot be is refused.
    after.save(tmp_path / "other", tiny_wan_pipe.transformer)
    assert Student.load(tmp_path / "other").draft_stages == found["draft_stages"]
    with pytest.raises(ValueError, match=r"draft_stages: got 4, expected a number of stages, from 1 to 3"):
        after.keep_draft_stages(4)
    with pytest.raises(ValueError, match=r"has no student.json here"):
        replace(after, folder=None).keep_draft_stages(1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1"], "--seeds: got 1, expected at least 2"),
        (["--prompts", "nowhere.txt"], "--prompts nowhere.txt: cannot be read"),
    ],
)
def test_wrong_input_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "draft", "pocket-wan-swd", *words]) == 2
    assert message in capsys.readouterr().err
