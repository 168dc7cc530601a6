"""From clips to a student and back to clips, with every family: encode, distil, save, load, render."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.video import probe_video, write_video
from swd_video.models.base import VideoModel
from swd_video.models.loading import VideoSpec, load_teacher, write_video_spec
from swd_video.objectives.networks import Networks
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.export import export_student
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import Student, load_student
from swd_video.studio.model import load_model_for_rendering
from swd_video.studio.render import render
from swd_video.studio.yaml_script import parse_script
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig
from swd_video.training.loop import train

from ..reference import sample_clips
from .conftest import FAMILIES

SCRIPT = """\
seed: 5
shots:
  - id: cat
    prompt: a cat
"""
# HunyuanVideo's own template, which its folder has no place for, is long where every byte is a token.
TEXT_LENGTHS = {"hunyuan": 700}


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, large and long enough for every family."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for number, colour in enumerate(((220, 40, 30), (40, 60, 230))):
        frames = np.full((40, 64, 96, 3), 200, dtype=np.uint8)
        for index, frame in enumerate(frames):
            frame[16:40, index : index + 24] = colour
        write_video(folder / f"{number}.mp4", frames, 25.0)
        lines.append(json.dumps({"path": f"{number}.mp4", "caption": f"a square number {number}"}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def teacher(family: str, save_tiny: Callable[[str], Path]) -> Path:
    folder = save_tiny(family)
    write_video_spec(folder, VideoSpec(text_length=TEXT_LENGTHS.get(family)))
    return folder


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _schedule(model: VideoModel, grid: LatentSize) -> ScaleSchedule:
    return ScaleSchedule((Stage(1.0, LatentSize(*model.spec.compression.patch)), Stage(0.6, grid)))


def _config(teacher: Path, schedule: ScaleSchedule, manifest: Path, cache: Path) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "model": str(teacher),
            "data": {"manifest": str(manifest), "cache": str(cache)},
            "schedule": schedule.as_dict(),
            "train": {
                **{"kind": "full", "steps": 1, "batch_size": 1, "lr": 0.01, "ema_decay": 0},
                **{"sample_every": 1, "sample_prompts": ["a cat"]},
            },
        }
    )


def _velocity(
    model: VideoModel, grid: LatentSize, transformer: torch.nn.Module | None = None
) -> torch.Tensor:
    latents = torch.randn(1, model.spec.latent_channels, *grid.as_tuple(), generator=_generator())
    embeds = model.encode_prompt(["a cat"])
    with torch.no_grad():
        return model.predict_velocity(latents, 0.6, embeds, transformer=transformer)


def _check_rendering(student: str | Path, schedule: ScaleSchedule, out: Path) -> ScaleWisePipeline:
    """One shot is rendered, and its clip is what the reference loop makes of the student."""
    loaded = load_model_for_rendering(str(student))
    pipe = loaded.pipe
    report = render(parse_script(SCRIPT, "film.yaml"), out, model=loaded)
    assert [result.status for result in report.results] == ["rendered"], report.results[0].error
    info, sizes = probe_video(out / "cat.mp4"), [pipe.compression.pixel_size(g) for g in schedule.grids]
    assert (info.frames, info.height, info.width) == sizes[-1].as_tuple()
    assert info.fps == pytest.approx(pipe.fps)
    output = pipe("a cat", generator=_generator(), output_type="pt", preview=True)
    reference = sample_clips(
        pipe.model, schedule, ["a cat"], upsample=pipe.scheduler.upsample, generator=_generator()
    )
    assert torch.equal(output.frames, (reference / 2 + 0.5).clamp(0, 1).transpose(1, 2))
    begun = pipe("a cat", generator=_generator(), stop=1, output_type="latent")
    assert torch.equal(pipe("a cat", start=begun.state, output_type="pt").frames, output.frames)
    assert output.previews is not None
    assert [tuple(p.shape[i] for i in (1, 3, 4)) for p in output.previews] == [s.as_tuple() for s in sizes]
    return pipe


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "wan-a14b"])
def test_a_student_is_distilled_saved_loaded_and_rendered(
    family: str, teacher: Path, model: VideoModel, grid: LatentSize, manifest: Path, tmp_path: Path
) -> None:
    schedule = _schedule(model, grid)
    run = build_run(_config(teacher, schedule, manifest, tmp_path / "cache"), tmp_path / "run")
    summary = train(run)
    assert summary.loss is not None and np.isfinite(summary.loss)
    assert (tmp_path / "run" / "samples" / "step_00000001" / "00-0.mp4").is_file()
    pipe = _check_rendering(summary.student, schedule, tmp_path / "out")
    loaded, trained = _velocity(pipe.model, grid), _velocity(pipe.model, grid, run.stepper.networks.student)
    torch.testing.assert_close(loaded, trained)
    assert (loaded - _velocity(pipe.model, grid, run.stepper.networks.model.transformer)).abs().max() > 1e-3


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "wan-a14b"])
def test_low_rank_additions_to_the_family_s_own_layers_are_saved_and_loaded(
    family: str, teacher: Path, model: VideoModel, grid: LatentSize, tmp_path: Path
) -> None:
    before = _velocity(model, grid)
    roles = Networks.with_lora(model, 2, model.lora_targets)
    with torch.no_grad():
        for weight in roles.trainable_parameters().values():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=_generator()))
    for block in model._blocks(model.transformer)[0]:
        assert any(weight.requires_grad for weight in block.parameters())
    additions = roles.lora_state_dict()
    made = Student(str(teacher), ScaleWiseFlowMatchScheduler.from_schedule(_schedule(model, grid)))
    made.save(tmp_path / "student", additions)
    loaded = load_student(tmp_path / "student").model
    embeds = model.encode_prompt(["a cat"])
    assert embeds.shape[2] == loaded.spec.text_dim
    latents = torch.randn(1, model.spec.latent_channels, *grid.as_tuple(), generator=_generator())
    with torch.no_grad():
        got, expected = (one.predict_velocity(latents, 0.6, embeds) for one in (loaded, model))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert (got - before).abs().max() > 0.05


@pytest.mark.parametrize("family", ["wan-a14b"])
def test_two_experts_render_from_a_pipeline_folder_but_make_no_student(
    teacher: Path, model: VideoModel, grid: LatentSize, manifest: Path, tmp_path: Path
) -> None:
    schedule = _schedule(model, grid)
    with pytest.raises(ValueError, match="has two transformers and a student is one"):
        build_run(_config(teacher, schedule, manifest, tmp_path / "cache"), tmp_path / "run")
    model.pipe.register_modules(scheduler=ScaleWiseFlowMatchScheduler.from_schedule(schedule))
    model.pipe.save_pretrained(tmp_path / "whole")
    ran: list[str] = []
    pipe = _check_rendering(tmp_path / "whole", schedule, tmp_path / "out")
    for name, expert in pipe.model.transformer.named_children():
        expert.register_forward_hook(lambda *_, name=name: ran.append(name))
    pipe("a cat", output_type="latent")
    assert ran == ["high_noise", "low_noise"]


def test_students_of_other_families_are_not_exported(
    save_tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    teacher = save_tiny("ltx")
    model = load_teacher(teacher)
    schedule = _schedule(model, LatentSize(3, 2, 3))
    made = Student(str(teacher), ScaleWiseFlowMatchScheduler.from_schedule(schedule))
    made.save(tmp_path / "s", model.transformer)
    with pytest.raises(ValueError, match="students of a LTXPipeline cannot be exported yet"):
        export_student(Student.load(tmp_path / "s"), tmp_path / "export")
    made = Student(str(save_tiny("wan")), ScaleWiseFlowMatchScheduler.from_schedule(schedule))
    made.save(tmp_path / "wrong", model.transformer)
    with pytest.raises(ValueError, match=r"is a LTXVideoTransformer3DModel, its base model .* has a WanT"):
        load_student(tmp_path / "wrong")


def test_prompts_are_counted_as_they_are_read(model: VideoModel) -> None:
    assert 0 < model.count_tokens("a cat") < model.count_tokens("a cat and a dog") <= model.max_tokens
    room = model.max_tokens - model.count_tokens("")  # the tokenizer has a token for every byte
    assert model.count_tokens("a" * room) == model.max_tokens
    prompts = ["a" * kept + last for kept in (room - 1, room) for last in "xy"]
    fits, fits_too, long, long_too = model.encode_prompt(prompts)[:, -model.max_tokens :]
    assert not torch.equal(fits, fits_too)  # the last token that fits still counts
    assert torch.equal(long, long_too)  # the first one that does not, does not
