import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from swd_video.cli.main import main
from swd_video.config import load_config_as
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.randomness import keyed_generator
from swd_video.core.resize import resize_pixels
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.latent_cache import LatentCache
from swd_video.data.sections import SynthesizeConfig
from swd_video.models.loading import load_teacher
from swd_video.models.teacher_sampling import sample_teacher

GRIDS = ["2x4x4", "3x4x4", "3x6x8"]
PROMPTS = ["a red square", "a green disc", "a blue star"]


@pytest.fixture(scope="session")
def values(tiny_wan_folder: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_wan_folder),
        "seed": 3,
        "prompts": PROMPTS,
        "samples_per_prompt": 2,
        "grids": GRIDS,
        "steps": 2,
        "guidance_scale": 2.0,
        "prompts_per_file": 1,
        "batch_size": 2,
    }


def synthesize(values: dict[str, Any], out: Path, *more: str) -> int:
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return main(["synthesize", str(path), "--out", str(out), "--device", "cpu", "--json", *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".yaml"}


@pytest.fixture(scope="session")
def synthesized(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it."""
    out = tmp_path_factory.mktemp("synthesized") / "cache"
    assert synthesize(values, out) == 0
    return out


def test_every_grid_holds_the_teachers_clip(synthesized: Path, tiny_wan_folder: Path) -> None:
    cache = LatentCache(synthesized)
    assert len(cache) == 6 and [str(grid) for grid in cache.grids] == GRIDS
    assert [cache[index]["caption"] for index in (0, 1, 2)] == [
        "a red square",
        "a red square",
        "a green disc",
    ]
    model = load_teacher(tiny_wan_folder)
    generators = [keyed_generator(3, "synthesize", "a green disc", sample) for sample in (0, 1)]
    own = sample_teacher(
        model, ["a green disc"] * 2, PixelSize(9, 48, 64), steps=2, guidance_scale=2.0, generator=generators
    )
    batch = cache.batch([2, 3])
    torch.testing.assert_close(batch.latents[LatentSize(3, 6, 8)], own.half())
    pixels = resize_pixels(model.decode(own).clamp(-1, 1).detach(), PixelSize(5, 32, 32))
    expected = model.encode_video(pixels).half()
    torch.testing.assert_close(batch.latents[LatentSize(2, 4, 4)], expected, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(batch.prompt_embeds[0], model.encode_prompt(["a green disc"])[0].half())
    assert not torch.equal(own[0], own[1])


def test_a_weaker_self_makes_other_clips(
    synthesized: Path, values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    led = {**values, "weaker": {"scale": 2, "blocks": [1]}}
    assert synthesize(led, tmp_path / "led") == 0
    same, plain = LatentCache(tmp_path / "led"), LatentCache(synthesized)
    grid = LatentSize(3, 6, 8)
    assert not torch.equal(same.batch([0]).latents[grid], plain.batch([0]).latents[grid])
    capsys.readouterr()
    assert synthesize(values, tmp_path / "led") == 2
    assert synthesize({**values, "weaker": {"blocks": [9]}}, tmp_path / "none") == 2
    assert "weaker.blocks: got 9, expected 0 to " in capsys.readouterr().err


def test_killed_or_divided_it_ends_with_the_same_bytes(
    synthesized: Path, values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = contents(synthesized)
    stopped = tmp_path / "stopped"
    shutil.copytree(synthesized, stopped)
    index = json.loads((stopped / "index.json").read_text())
    unfinished = {k: v for k, v in index.items() if k not in ("samples", "skipped", "latents", "prompts")}
    (stopped / "index.json").write_text(json.dumps({**unfinished, "complete": False}))
    (stopped / "latents-00001.safetensors").unlink()
    (stopped / ".latents-00001.safetensors.0123456789abcdef.draft").write_bytes(b"half")
    assert synthesize(values, stopped) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 2
    assert contents(stopped) == expected
    # Finished, it loses a file.
    (stopped / "latents-00002.safetensors").unlink()
    assert synthesize(values, stopped) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["made"] == 2 and contents(stopped) == expected
    assert "missing or damaged, so made again: latents-00002.safetensors\n" in captured.err

    parts = tmp_path / "parts"
    assert synthesize(values, parts, "--shard", "2/2") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["made"], first["is_complete"]) == (2, False)
    assert load_config_as(SynthesizeConfig, parts / "synthesize.yaml").prompts == tuple(PROMPTS)
    assert synthesize(values, parts, "--shard", "1/2") == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["made"], second["is_complete"]) == (4, True)
    assert contents(parts) == expected
    assert synthesize(values, parts) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["made"] == 0 and "finished already" in output.err


def test_a_student_is_distilled_from_it(
    synthesized: Path,
    tiny_wan_folder: Path,
    tiny_schedule: ScaleSchedule,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = {
        "model": str(tiny_wan_folder),
        "data": {"cache": str(synthesized)},
        "schedule": tiny_schedule.as_dict(),
        "train": {"kind": "lora", "rank": 2, "steps": 1, "batch_size": 2},
    }
    (tmp_path / "distill.yaml").write_text(yaml.safe_dump(config))
    assert main(["distill", str(tmp_path / "distill.yaml"), "--out", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 1 and summary["loss"] > 0
    assert (Path(summary["student"]) / "student.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": ["3x6x8", "2x4x4"]}, "latent grid 3x6x8 is larger than the last one"),
        ({"grids": ["2x4"]}, "grids: '2x4' is not a size"),
        ({"prompts": []}, "prompts and prompts_file: got neither"),
        ({"steps": 3}, "holds a cache of other clips or captions"),
        (
            {"prompts": ["a fox", "b \0"]},
            "prompts: prompt 2 holds a control character, U+0000, as character 3",
        ),
        ({"negative_prompt": "\x1b[0m"}, "negative_prompt: holds a control character, U+001B"),
    ],
)
def test_wrong_input_is_one_line(
    change: dict[str, Any],
    message: str,
    synthesized: Path,
    values: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "cache"
    shutil.copytree(synthesized, out)
    assert synthesize({**values, **change}, out if "steps" in change else tmp_path / "new") == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert (out / "synthesize.yaml").read_bytes() == (synthesized / "synthesize.yaml").read_bytes()
    assert contents(out) == contents(synthesized)


def test_what_the_teacher_does_not_read_is_said_and_an_impossible_folder_found_first(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {**values, "prompts": ["y" * 60], "negative_prompt": "z" * 50, "samples_per_prompt": 1, "steps": 1}
    small = {**long, "grids": ["2x4x4"]}
    for made in (1, 0):
        assert synthesize(small, tmp_path / "cache") == 0
        captured = capsys.readouterr()
        cut = {"count": 1, "max_tokens": 48, "first": {"y" * 60: 61}}
        assert json.loads(captured.out)["cut_prompts"] == cut
        line = "1 prompt has more tokens than the 48 the model reads, and its end is lost: 'yyy"
        assert line in captured.err
        assert (
            captured.err.count("1 negative prompt has more tokens")
            == made
            == json.loads(captured.out)["made"]
        )
    assert json.loads((tmp_path / "cache" / "index.json").read_text())["cut_captions"] == cut
    (tmp_path / "file").touch()
    assert synthesize({**small, "seed": 9}, tmp_path / "file") == 2
    error = capsys.readouterr().err
    assert f"error: --out {tmp_path / 'file'}: cannot be written to: it is no folder" in error
    assert "Loading" not in error


def test_guidance_left_out_is_the_pipeline_s(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {**values, "prompts": ["a cat"], "samples_per_prompt": 1, "steps": 1}
    assert synthesize({**few, "guidance_scale": 5}, tmp_path / "cache") == 0
    del few["guidance_scale"]
    assert synthesize(few, tmp_path / "cache") == 0
    assert f"{tmp_path / 'cache'} is finished already" in capsys.readouterr().err
    assert synthesize({**few, "guidance_scale_2": 3}, tmp_path / "cache") == 2
