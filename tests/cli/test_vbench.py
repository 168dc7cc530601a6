import json
import os
from pathlib import Path

import pytest

from swd_video.cli.main import main
from swd_video.data.video import read_video, read_video_metadata
from swd_video.evaluation.vbench import SUITES, plan_bench


@pytest.fixture
def lists(tmp_path: Path) -> list[str]:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "color.txt").write_text("a red bird\n")
    (folder / "temporal_flickering.txt").write_text("a still lake\na red bird\n")
    return [str(folder / "color.txt"), str(folder / "temporal_flickering.txt")]


def test_vbench_wants_one_folder_and_vbench2_one_for_each_dimension(tmp_path: Path) -> None:
    long = "x" * 200
    for name, prompts in {"temporal_flickering": ["a lake"], "color": ["a bird", "a lake"]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(prompts))
    (tmp_path / "Diversity.txt").write_text("a bird")
    (tmp_path / "Material.txt").write_text(f"{long}\na bird")
    flat = plan_bench(SUITES["vbench"], [tmp_path / "temporal_flickering.txt", tmp_path / "color.txt"])
    assert [clip.path for clip in flat] == [
        *(f"a lake-{index}.mp4" for index in range(25)),
        *(f"a bird-{index}.mp4" for index in range(5)),
    ]
    assert len({clip.seed for clip in flat}) == 30
    second = plan_bench(SUITES["vbench2"], [tmp_path / "Diversity.txt", tmp_path / "Material.txt"])
    names = [clip.path for clip in second]
    assert names[:20] == [f"Diversity/a bird-{index}.mp4" for index in range(20)]
    assert names[20:] == [f"Material/{p}-{i}.mp4" for p in ("x" * 180, "a bird") for i in range(3)]
    assert second[20].prompt == long
    assert (
        second[23].seed
        == second[0].seed
        == plan_bench(SUITES["vbench2"], [tmp_path / "Diversity.txt"])[0].seed
    )


def test_clips_are_named_after_the_list_whatever_the_model_is_given(tmp_path: Path) -> None:
    (tmp_path / "color.txt").write_text("a bird\na cat")
    (tmp_path / "long.txt").write_text("a bird, in detail\na cat, in detail")
    files = [tmp_path / "color.txt"], [tmp_path / "long.txt"]
    clips = plan_bench(SUITES["vbench"], *files)
    assert clips[5].path == "a cat-0.mp4" and clips[5].prompt == "a cat, in detail"
    (tmp_path / "long.txt").write_text("a bird, in detail")
    with pytest.raises(ValueError, match=r"has 1 prompts, .* has 2"):
        plan_bench(SUITES["vbench"], *files)
    (tmp_path / "color.txt").write_text("either/or")
    with pytest.raises(ValueError, match="cannot be a file's name"):
        plan_bench(SUITES["vbench"], [tmp_path / "color.txt"])
    (tmp_path / "color.txt").write_text("x" * 180 + "1\n" + "x" * 180 + "2")
    with pytest.raises(ValueError, match="same first 180 characters"):
        plan_bench(SUITES["vbench2"], [tmp_path / "color.txt"])


def test_stopped_and_divided_it_ends_with_the_same_clips(
    student_folder: Path, lists: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(out: str, *more: str) -> dict[str, object]:
        arguments = [
            "vbench",
            str(student_folder),
            "--prompts",
            *lists,
            "--out",
            str(tmp_path / out),
            "--json",
        ]
        assert main([*arguments, "--samples", "2", "--batch-size", "2", "--device", "cpu", *more]) == 0
        return json.loads(capsys.readouterr().out)

    assert command("whole") == {
        "videos": str(tmp_path / "whole" / "videos"),
        "clips": 4,
        "made": 4,
        "missing": 0,
    }
    videos = tmp_path / "whole" / "videos"
    expected = {path.name: path.read_bytes() for path in videos.iterdir()}
    assert sorted(expected) == [
        f"{prompt}-{n}.mp4" for prompt in ("a red bird", "a still lake") for n in (0, 1)
    ]
    frames, fps = read_video(videos / "a red bird-1.mp4")
    assert frames.shape == (9, 48, 64, 3) and fps == 16
    record = json.loads((tmp_path / "whole" / "vbench.json").read_text())
    seeds = {clip["path"]: str(clip["seed"]) for clip in record["clips"]}
    assert read_video_metadata(videos / "a red bird-1.mp4")["seed"] == seeds["a red bird-1.mp4"]

    os.remove(videos / "a red bird-1.mp4")
    (videos / ".a red bird-1.mp4.0123456789abcdef.draft").write_bytes(b"half")
    command("whole")
    assert command("parts", "--shard", "2/2")["missing"] == 2
    assert command("parts", "--shard", "1/2")["missing"] == 0
    for out in ("whole", "parts"):
        assert {p.name: p.read_bytes() for p in (tmp_path / out / "videos").iterdir()} == expected

    again = ["vbench", str(student_folder), "--prompts", *lists, "--out", str(tmp_path / "whole")]
    assert main([*again, "--samples", "2", "--batch-size", "2", "--seed", "1"]) == 2
    assert "holds clips of other prompts or seeds" in capsys.readouterr().err
    for damage in ("{", "[]", ""):
        (tmp_path / "whole" / "vbench.json").write_text(damage)
        assert main([*again, "--samples", "2", "--batch-size", "2"]) == 2
        assert f"error: {tmp_path}/whole/vbench.json: is damaged. Delete it if" in capsys.readouterr().err


def test_teachers_are_sampled_too(
    tiny_wan_folder: Path, lists: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "vbench",
        str(tiny_wan_folder),
        "--prompts",
        lists[0],
        "--out",
        str(tmp_path / "out"),
        "--samples",
        "1",
    ]
    assert main(command) == 2
    assert "--size" in capsys.readouterr().err
    assert main([*command, "--size", "5x32x32", "--steps", "1", "--guidance-scale", "1"]) == 0
    assert read_video(tmp_path / "out" / "videos" / "a red bird-0.mp4")[0].shape == (5, 32, 32, 3)
