"""A student whose clips a trained network takes from grid to grid."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from swd_video.config import ConfigError
from swd_video.core.resize import resize_latents
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler, growing_pairs
from swd_video.data.latent_cache import LatentCache
from swd_video.student.export import export_student
from swd_video.student.student import Student, load_student
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, UpsamplerConfig, load_config
from swd_video.training.loop import train
from swd_video.training.upsampler import open_upsampler, relative_error, train_upsampler

MakeConfig = Callable[..., DistillConfig]


def _with_upsampler(config: DistillConfig, path: Path, **settings: Any) -> DistillConfig:
    small = {"width": 8, "depth": 1, "steps": 3, "batch_size": 4}
    return config.model_copy(update={"upsampler": UpsamplerConfig(file=str(path), **(small | settings))})


@pytest.fixture
def clips(make_config: MakeConfig, tmp_path: Path) -> LatentCache:
    """The cached clips, encoded if no test has done so before."""
    return build_run(make_config(), tmp_path / "encoded").stepper.clips


def test_trained_it_errs_less_than_bicubic_resizing(clips: LatentCache, tiny_schedule: ScaleSchedule) -> None:
    (pair,) = growing_pairs(tiny_schedule)[:1]
    config = UpsamplerConfig(file="unused", width=16, depth=1, steps=60, batch_size=6)
    upsampler = train_upsampler(config, [pair], clips, torch.device("cpu"))
    latents = clips.batch(range(len(clips)), list(pair)).latents
    small, large = (latents[grid].float() for grid in pair)
    bicubic = relative_error(resize_latents(small, pair[1]), large)
    assert relative_error(upsampler(small, pair[1]), large) < 0.7 * bicubic
    again = train_upsampler(config, [pair], clips, torch.device("cpu"))
    assert torch.equal(again(small, pair[1]), upsampler(small, pair[1]))


def test_one_that_left_all_numbers_is_not_kept(clips: LatentCache, tiny_schedule: ScaleSchedule) -> None:
    (pair,) = growing_pairs(tiny_schedule)[:1]
    config = UpsamplerConfig(file="unused", width=16, depth=1, steps=20, batch_size=6, lr=1e20)
    with pytest.raises(ValueError, match=r"upsampler\.lr: its training left all numbers at step \d+ of 20"):
        train_upsampler(config, [pair], clips, torch.device("cpu"))


def test_training_and_sampling_go_through_it_and_the_student_takes_it_along(
    make_config: MakeConfig, tmp_path: Path, tiny_schedule: ScaleSchedule
) -> None:
    path = tmp_path / "kept" / "upsampler.safetensors"
    config = _with_upsampler(make_config(backward_simulation=0.5, mmd=[], parts={"gan": {}}), path)
    run = build_run(config, tmp_path / "run")
    assert path.read_bytes() == (tmp_path / "run" / path.name).read_bytes()
    assert isinstance(run.stepper.upsample, LatentUpsampler)
    with torch.no_grad():
        run.stepper.upsample.out.weight.fill_(0.1)  # as if it had been trained for long
    batch = next(
        batch
        for step in range(20)
        for batch in run.stepper.micro_batches(step, 0)
        if batch.stage_index == 1 and not run.stepper.inputs(batch).own
    )
    seen = run.stepper.inputs(batch)
    before, stage = tiny_schedule[0].grid, tiny_schedule[1]
    latents = run.stepper.read(batch, [before]).latents[before].float()
    noise = run.stepper.draws("noise", batch).normal_like(seen.target_x0)
    expected = (1 - stage.sigma) * run.stepper.upsample(latents, stage.grid) + stage.sigma * noise
    torch.testing.assert_close(seen.noisy_latents, expected)

    train(run)
    assert json.loads((tmp_path / "run/student/scheduler/scheduler_config.json").read_text())[
        "upsampling"
    ] == ("learned")
    made_of = Student.load(tmp_path / "run/student").made_of
    assert made_of == json.loads((tmp_path / "run/made_of.json").read_text())
    assert all(made_of[key] for key in ("teacher", "vae", "clips", "latents", "upsampler"))
    assert made_of["settings"]["upsampler.steps"] == 3 and str(tmp_path) not in json.dumps(made_of)
    student = load_student(tmp_path / "run/student")
    generator = torch.Generator().manual_seed(0)
    got = student(prompt="a red square", generator=generator, output_type="latent").frames
    student.scheduler.upsampler.out.weight.zero_()  # bicubic from here on
    generator.manual_seed(0)
    bicubic = student(prompt="a red square", generator=generator, output_type="latent").frames
    assert not torch.allclose(got, bicubic)
    export_student(Student.load(tmp_path / "run/student"), tmp_path / "whole", form="merged")
    merged = load_student(tmp_path / "whole")
    generator.manual_seed(0)
    torch.testing.assert_close(
        merged(prompt="a red square", generator=generator, output_type="latent").frames, got
    )


def test_a_file_is_used_by_runs_that_would_train_the_same_and_refused_otherwise(
    clips: LatentCache, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    path, accelerator, run = tmp_path / "upsampler.safetensors", Accelerator(), tmp_path / "run"
    config = UpsamplerConfig(file=str(path), width=8, depth=0, steps=2, batch_size=2)

    def opened(**changes: Any) -> LatentUpsampler | None:
        changed = config.model_copy(update=changes)
        return open_upsampler(changed, tiny_schedule, clips, accelerator, run)

    assert opened() is not None
    before = path.read_bytes()
    again = opened()
    assert again is not None and again.depth == 0 and path.read_bytes() == before
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == before
    for key, value in {"width": 16, "depth": 1, "steps": 3, "batch_size": 4, "lr": 1e-3, "seed": 1}.items():
        with pytest.raises(ConfigError, match=rf"upsampler\.file: .* another {key}: .* there, {value} now"):
            opened(**{key: value})
    shorter = ScaleSchedule(tiny_schedule.stages[:2])
    with pytest.raises(
        ConfigError, match=r"another pairs: \[\['2x4x4', '3x4x4'\], \['3x4x4', '3x6x8'\]\] there"
    ):
        open_upsampler(config, shorter, clips, accelerator, run)
    made_of = again.made_of
    assert made_of is not None and path.read_bytes() == before
    for key in ("clips", "vae"):
        again.made_of = made_of | {key: "other"}
        again.save(path)
        with pytest.raises(ConfigError, match=rf"another {key}: other there, {made_of[key]} now"):
            opened()
    again.made_of = None
    again.save(path)
    with pytest.raises(ConfigError, match="does not say how it was trained"):
        opened()
    path.write_text("nothing")
    with pytest.raises(ConfigError, match=r"upsampler\.file: .* cannot be read as an upsampler"):
        opened()


def test_a_run_keeps_its_own(clips: LatentCache, tiny_schedule: ScaleSchedule, tmp_path: Path) -> None:
    own = tmp_path / "run" / "upsampler.safetensors"
    config = UpsamplerConfig(width=8, depth=0, steps=2, batch_size=2)

    def opened(config: UpsamplerConfig) -> None:
        assert open_upsampler(config, tiny_schedule, clips, Accelerator(), own.parent) is not None

    opened(config)
    before = own.read_bytes()
    own.write_bytes(before[:1000])  # damaged: trained again, to the same bytes
    opened(config)
    assert own.read_bytes() == before
    # Taken wherever others lie, and trained anew where it is not what the config says.
    opened(config.model_copy(update={"file": str(tmp_path / "nowhere.safetensors")}))
    assert not (tmp_path / "nowhere.safetensors").exists()
    opened(config.model_copy(update={"seed": 1}))
    assert own.read_bytes() != before


def test_stages_of_one_size_need_none(clips: LatentCache, tiny_schedule: ScaleSchedule) -> None:
    config = UpsamplerConfig(file="unused")
    with pytest.raises(ConfigError, match="no stage of the schedule is larger"):
        open_upsampler(config, ScaleSchedule(tiny_schedule.stages[:1]), clips, Accelerator(), Path())
    assert open_upsampler(None, tiny_schedule, clips, Accelerator(), Path()) is None


def test_its_keys_are_those_of_the_config(tmp_path: Path) -> None:
    config = load_config(
        Path("configs/pocket/swd.yaml"), {"upsampler": '{"file": "x.safetensors", "width": 16}'}
    )
    assert config.upsampler == UpsamplerConfig(file="x.safetensors", width=16)
    with pytest.raises(ConfigError, match=r"upsampler\.width"):
        load_config(Path("configs/pocket/swd.yaml"), {"upsampler": '{"file": "x", "width": 12}'})
