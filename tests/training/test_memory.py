"""What makes large models fit changes no student: checkpointing, and a text encoder and VAE that step aside."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

from swd_video.config import ConfigError
from swd_video.student.export import export_student
from swd_video.student.student import Student
from swd_video.studio.model import load_model_for_rendering
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, LoadConfig
from swd_video.training.loop import Run, train

MakeConfig = Callable[..., DistillConfig]


def with_load(config: DistillConfig, **load: object) -> DistillConfig:
    return config.model_copy(update={"load": LoadConfig.model_validate(load)})


def three_steps(run: Run) -> tuple[list[float], dict[str, torch.Tensor]]:
    reports = [run.stepper.take_step(step) for step in range(3)]
    losses = [loss for report in reports for _, loss, _ in report.stages]
    return losses, {name: w.detach() for name, w in run.stepper.networks.trainable_parameters().items()}


@pytest.mark.parametrize(
    ("kind", "precision"), [("full", None), ("lora", None), ("lora", "bf16")], ids=lambda value: str(value)
)
def test_checkpointing_changes_no_loss_and_no_weight(
    kind: str, precision: str | None, make_config: MakeConfig, tmp_path: Path
) -> None:
    same = {"lr": 1e-2, "batch_size": 4, "stages_per_step": 2, "mixed_precision": precision}
    losses, weights = three_steps(build_run(make_config(kind, **same), tmp_path / "kept"))
    again = make_config(kind, **same, gradient_checkpointing=True)
    losses_again, got = three_steps(build_run(again, tmp_path / "recomputed"))
    assert losses_again == losses
    assert all(torch.equal(got[name], weight) for name, weight in weights.items())
    # So a run that ran out of memory may go on with it.
    build_run(again, tmp_path / "kept")


def test_text_encoder_and_vae_step_aside_when_prompts_are_read(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"dmd": {"negative_prompt": "n" * 50, "critic_rank": 2, "scale_adapted": True}}
    prompts = ["a red square", "a square " * 9]
    run = build_run(make_config(parts=parts, sample_every=1, sample_prompts=prompts), tmp_path / "run")
    told = capsys.readouterr().err
    lost = "1 prompt has more tokens than the 48 the model reads, and its end is lost: "
    assert f"warning: train.sample_prompts: {lost}'a square a square" in told
    assert f"warning: loss.dmd.negative_prompt: {lost}'nnnn" in told
    pipe = run.stepper.networks.model.pipe
    assert all(weight.is_meta for weight in pipe.text_encoder.parameters())
    assert run.samples is not None
    run.samples.write(1, run.samples.sample())
    assert (tmp_path / "run/samples/step_00000001/00-0.mp4").is_file()
    assert {weight.device.type for weight in pipe.vae.parameters()} == {"cpu"}


def test_a_lora_trains_in_float32_on_a_teacher_in_bfloat16(make_config: MakeConfig, tmp_path: Path) -> None:
    run = build_run(with_load(make_config("lora"), dtype="bfloat16"), tmp_path / "run")
    before = {name: weight.clone() for name, weight in run.stepper.networks.trainable_parameters().items()}
    losses, after = three_steps(run)
    assert all(loss >= 0 for loss in losses)
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())
    frozen = {
        weight.dtype for weight in run.stepper.networks.student.parameters() if not weight.requires_grad
    }
    assert torch.bfloat16 in frozen


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"cpu_offload": "model"}, "load.cpu_offload: got 'model' to train with, expected null"),
        ({"float8_weights": True}, "load.float8_weights: got True to train with, expected false"),
        ({"attention": "sage"}, "load.attention: got 'sage' to train with, expected another"),
        ({"dtype": "bfloat16"}, "load.dtype: got 'bfloat16' to train with, expected float32"),
        ({"attention": "flash"}, "attention backend 'flash' does not run on cpu"),
    ],
)
def test_options_that_do_not_train_are_refused(
    load: dict[str, object], message: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build_run(with_load(make_config("full"), **load), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ConfigError) == message.startswith("load.")


def test_float16_alone_would_lose_small_gradients(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"load\.dtype: got 'float16' to train with, .* train\.mixed_precision: bf16"
    ):
        build_run(with_load(make_config("lora"), dtype="float16"), tmp_path / "run")


def test_a_single_file_is_the_teacher_and_its_students_know_it(
    make_config: MakeConfig, tiny_wan_pipe: WanPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "other.safetensors"
    weights = {name: weight * 1.05 for name, weight in tiny_wan_pipe.transformer.state_dict().items()}
    save_file(weights, file)
    config = with_load(make_config("lora", steps=1), transformer_file=str(file))
    run = build_run(config, tmp_path / "run")
    assert torch.equal(run.stepper.networks.student.proj_out.weight, weights["proj_out.weight"])
    train(run)
    student = tmp_path / "run" / "student"
    loaded = load_model_for_rendering(str(student))
    # Not among the layers that additions change.
    assert torch.equal(loaded.pipe.model.transformer.proj_out.weight, weights["proj_out.weight"])

    # Not into the file that may be mapped into memory.
    save_file({name: weight + 1 for name, weight in weights.items()}, tmp_path / "new")
    (tmp_path / "new").replace(file)
    assert load_model_for_rendering(str(student)).fingerprint != loaded.fingerprint
    with pytest.raises(ValueError, match="was trained on the single file"):
        export_student(Student.load(student), tmp_path / "export")
    file.unlink()
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        load_model_for_rendering(str(student))
