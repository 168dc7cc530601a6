"""A student that goes on from another one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swd_video.cli.main import main
from swd_video.config import ConfigError, dump_config
from swd_video.core.upsampler import LatentUpsampler
from swd_video.student.student import Student
from swd_video.student.student_file import PixelNetwork
from swd_video.training.build import build_run, distill
from swd_video.training.config import DistillConfig, UpsamplerConfig
from swd_video.training.loop import train
from swd_video.training.passes import passes_before

MakeConfig = Callable[..., DistillConfig]


def test_it_begins_with_the_others_weights_and_remembers_what_trained_those(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    first, out = tmp_path / "first", tmp_path / "run"
    train(build_run(make_config(steps=1), first))
    student = Student.load(first / "student")
    weights = load_file(student.weights_path / "diffusion_pytorch_model.safetensors")
    replace(student, trained_through=(PixelNetwork("seen"),)).write_facts(
        student.folder or first, "full", student.folder or first
    )
    config = make_config(steps=1, start=str(first / "student"))
    run = build_run(config, out)
    networks = run.stepper.networks
    assert all(torch.equal(weights[name], weight) for name, weight in networks.student.state_dict().items())
    teacher = networks.model.transformer.state_dict()
    assert not all(torch.equal(teacher[name], weight) for name, weight in weights.items()), (
        "which did not change"
    )
    train(run)
    assert Student.load(out / "student").trained_through == (PixelNetwork("seen"),)
    # A finished run goes back half of the way, and forth again, without a step.
    reached = load_file(out / "student" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert not all(torch.equal(reached[name], weight) for name, weight in weights.items()), (
        "which did not change"
    )
    for share in (0.5, 1.0):
        half = make_config(steps=1, start=str(first / "student"), kept_share=share)
        assert distill(half, out).steps == 1
        now = load_file(out / "student" / "transformer" / "diffusion_pytorch_model.safetensors")
        for name, weight in now.items():
            torch.testing.assert_close(weight, torch.lerp(weights[name], reached[name], share))
    # Ended before the student is written anew, it is not taken for finished by the next one.
    quarter = make_config(steps=1, start=str(first / "student"), kept_share=0.25)
    build_run(quarter, out)
    assert distill(quarter, out).steps == 1
    now = load_file(out / "student" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, weight in now.items():
        torch.testing.assert_close(weight, torch.lerp(weights[name], reached[name], 0.25))
    distill(config, out)
    with pytest.raises(ConfigError, match=r"kept_share: 0\.5 goes with start"):
        make_config(kept_share=0.5)

    # The same place may hold another student by now.
    train(build_run(make_config(steps=2), first))
    with pytest.raises(ConfigError, match=r"another start \(train\.start\)"):
        build_run(make_config(steps=2, start=str(first / "student")), out)


@pytest.mark.parametrize("asked", [None, UpsamplerConfig(width=16, steps=1)])
def test_its_upsampler_is_kept_and_never_dropped_unsaid(
    asked: UpsamplerConfig | None, make_config: MakeConfig, tmp_path: Path
) -> None:
    small = {"upsampler": UpsamplerConfig(width=8, steps=1)}
    train(build_run(make_config(steps=1).model_copy(update=small), tmp_path / "first"))
    config = make_config(steps=1, start=str(tmp_path / "first" / "student"))
    kept = build_run(config.model_copy(update=small), tmp_path / "kept").stepper.upsample
    assert isinstance(kept, LatentUpsampler) and kept.width == 8
    assert passes_before(make_config(steps=1).model_copy(update=small))
    assert not passes_before(config.model_copy(update=small)), "trained already"
    with pytest.raises(ConfigError, match=r"upsampler: that of train\.start is kept, .*'width': 8"):
        build_run(config.model_copy(update={"upsampler": asked}), tmp_path / "other")


def test_what_it_cannot_go_on_from(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    additions, path = tmp_path / "lora", tmp_path / "config.yaml"
    train(build_run(make_config("lora", steps=1), additions))
    path.write_text(dump_config(make_config(steps=1)))
    own = UpsamplerConfig(file=str(tmp_path / "own.safetensors"), width=8, steps=1)
    for start, upsampler, message in (
        ("nowhere", None, "train.start: model 'nowhere': does not exist"),
        (str(additions / "student"), None, "train.start: .* is a student of kind lora, expected kind full"),
        ("pocket-wan-swd", own, "train.start: .*transformer"),
    ):
        config = make_config(steps=1, start=start).model_copy(update={"upsampler": upsampler})
        with pytest.raises(ConfigError, match=message):
            build_run(config, tmp_path / "run")
        assert main(["distill", str(path), "--out", str(tmp_path / "run"), "--train.start", start]) == 2
        assert "error: " in capsys.readouterr().err and not (tmp_path / "run").exists()
    # Before clips are encoded, which takes long.
    cache = tmp_path / "no-cache"
    words = ["--data.cache", str(cache), "--train.start", "nowhere"]
    assert main(["distill", str(path), "--out", str(tmp_path / "run"), *words]) == 2 and not cache.exists()
