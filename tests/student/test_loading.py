import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict

from swd_video.core.schedule import ScaleSchedule
from swd_video.models.loading import VideoSpec, write_video_spec
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import Student, load_student


def _clip(pipe: ScaleWisePipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a cat", generator=torch.Generator().manual_seed(0)).frames


def _changed(pipe: WanPipeline) -> WanTransformer3DModel:
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():
            parameter.mul_(1.05)
    return pipe.transformer


def _with_lora(pipe: WanPipeline) -> WanTransformer3DModel:
    transformer = pipe.transformer
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v", "ffn.net.0.proj"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return transformer


def test_a_whole_student_is_loaded_into_its_teacher_s_pipeline(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    transformer = _changed(tiny_wan_pipe)
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "student", transformer)
    pipe = load_student(tmp_path / "student")
    assert isinstance(pipe, ScaleWisePipeline)
    assert pipe.scheduler.schedule == tiny_schedule
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(pipe.model.transformer.state_dict()[name], tensor)
    assert _clip(pipe).shape == (1, 9, 48, 64, 3)
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [
        "scheduler",
        "student.json",
        "transformer",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_student_remembers_how_its_positions_were_counted(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    for positions in ("native", "rescaled"):
        folder = tmp_path / positions
        made = Student(
            str(tiny_wan_folder),
            ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule),
            positions=positions,
        )
        made.save(folder, tiny_wan_pipe.transformer)
        assert ("positions" in json.loads((folder / "student.json").read_text())) == (positions != "native")
        assert Student.load(folder).positions == positions
    assert load_student(folder).positions == "rescaled"


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_low_rank_additions_are_loaded_at_full_strength(
    tiny_wan_pipe: WanPipeline,
    tiny_wan_folder: Path,
    tiny_schedule: ScaleSchedule,
    tmp_path: Path,
    prefix: str,
) -> None:
    transformer = _with_lora(tiny_wan_pipe)
    state = {prefix + name: tensor for name, tensor in get_peft_model_state_dict(transformer).items()}
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "student", state)
    assert not (tmp_path / "student" / "transformer").exists()
    pipe = load_student(tmp_path / "student")
    latents, embeds = torch.ones(1, 4, 2, 4, 4), torch.ones(1, 48, 16)
    timestep = torch.tensor([500.0])
    with torch.no_grad():
        expected = transformer(latents, timestep, embeds, return_dict=False)[0]
        got = pipe.model.transformer(latents, timestep, embeds, return_dict=False)[0]
        transformer.disable_adapters()
        without = transformer(latents, timestep, embeds, return_dict=False)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (got - without).abs().max() > 1e-2
    assert not any("lora" in name for name, _ in pipe.model.transformer.named_parameters())


def test_the_lora_file_loads_in_a_stock_pipeline_at_the_same_strength(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    transformer = _with_lora(tiny_wan_pipe)
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "student", get_peft_model_state_dict(transformer))
    stock = WanPipeline.from_pretrained(tiny_wan_folder)
    stock.load_lora_weights(tmp_path / "student")
    latents, embeds = torch.ones(1, 4, 2, 4, 4), torch.ones(1, 48, 16)
    with torch.no_grad():
        expected = transformer(latents, torch.tensor([500.0]), embeds, return_dict=False)[0]
        got = stock.transformer(latents, torch.tensor([500.0]), embeds, return_dict=False)[0]
    torch.testing.assert_close(got, expected)


def test_a_saved_pipeline_loads_alike(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(student, _changed(tiny_wan_pipe))
    pipe = load_student(student)
    pipe.model.pipe.register_modules(scheduler=pipe.scheduler)
    pipe.model.pipe.save_pretrained(tmp_path / "whole")
    assert np.array_equal(_clip(load_student(tmp_path / "whole")), _clip(pipe))


def test_a_student_inherits_its_teacher_s_facts(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    tiny_wan_pipe.save_pretrained(teacher)
    write_video_spec(teacher, VideoSpec(fps=12.0, text_length=20))
    made = Student(str(teacher), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "runs" / "student", tiny_wan_pipe.transformer)
    pipe = load_student(tmp_path / "runs" / "student")
    assert pipe.fps == 12.0 and pipe.model.spec.text_length == 20


def test_a_teacher_s_folder_is_recorded_relative_to_the_student(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_wan_pipe.save_pretrained("teacher")
    made = Student("teacher", ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save("student", tiny_wan_pipe.transformer)
    assert Student.load("student").base_model == "../teacher"
    moved = tmp_path / "moved"
    moved.mkdir()
    os.replace("teacher", moved / "teacher")
    os.replace("student", moved / "student")
    monkeypatch.chdir(moved)
    assert Path(Student.load("student").base_path).resolve() == moved / "teacher"
    assert load_student(moved / "student").scheduler.schedule == tiny_schedule


def test_a_student_behind_a_link_finds_its_teacher(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    # `..` out of what lies behind the link does not lead back to where the link lies.
    Path("runs").symlink_to(tmp_path / "disk" / "deep")
    tiny_wan_pipe.save_pretrained("models/teacher")
    made = Student("models/teacher", ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save("runs/student", tiny_wan_pipe.transformer)
    found = Path(Student.load("runs/student").base_path)
    assert found.resolve() == tmp_path / "project" / "models" / "teacher"


def test_names_are_recorded_as_they_are(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    name = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    made = Student(str(name), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "s", tiny_wan_pipe.transformer)
    assert json.loads((tmp_path / "s" / "student.json").read_text()) == {
        "format": 1,
        "base_model": name,
        "kind": "full",
    }


def test_a_student_is_replaced_whole(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    student = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    student.save(folder, tiny_wan_pipe.transformer)
    student.save(folder, get_peft_model_state_dict(_with_lora(tiny_wan_pipe)))
    assert sorted(path.name for path in folder.iterdir()) == [
        "pytorch_lora_weights.safetensors",
        "scheduler",
        "student.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert Student.load(folder).kind == "lora"


def test_other_folders_are_not_overwritten(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    made = Student("x", ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    with pytest.raises(ValueError, match=r"is not empty and holds no student\.json"):
        made.save(tmp_path, tiny_wan_pipe.transformer)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_teacher_is_no_student(tiny_wan_folder: Path) -> None:
    with pytest.raises(ValueError, match="got a WanPipeline, expected a scale-wise student"):
        load_student(tiny_wan_folder)


def test_a_missing_teacher_is_named(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    made = Student("no-such-model", ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "s", tiny_wan_pipe.transformer)
    with pytest.raises(ValueError, match="model 'no-such-model': does not exist"):
        load_student(tmp_path / "s")


def test_precision_reaches_every_part(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "s", tiny_wan_pipe.transformer)
    pipe = load_student(tmp_path / "s", dtype=torch.bfloat16)
    parts = pipe.model.pipe
    assert {parts.transformer.dtype, parts.text_encoder.dtype, parts.vae.dtype} == {torch.bfloat16}
    assert np.isfinite(_clip(pipe)).all()
