"""Scale adaptation: a teacher learns the grids of a schedule and is an ordinary model afterwards."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

from swd_video.cli.adapt import run as run_command
from swd_video.config import ConfigError, dump_config
from swd_video.models.fingerprint import fingerprint_encoders
from swd_video.models.loading import load_teacher
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig
from swd_video.training.finished import finished_summary
from swd_video.training.loop import train

from .conftest import train_until

MakeConfig = Callable[..., DistillConfig]


def test_the_loss_falls_on_every_grid(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(lr=1e-2, batch_size=6, stages_per_step=3)
    stepper = build_run(config, tmp_path / "run", adapts=True).stepper
    assert stepper.networks.student is stepper.networks.model.transformer

    @torch.no_grad()
    def losses() -> dict[int, float]:
        batches = [
            batch
            for step in range(900, 906)
            for part in range(3)
            for batch in stepper.micro_batches(step, part)
        ]
        by_stage: dict[int, list[float]] = {}
        for batch in batches:
            by_stage.setdefault(batch.stage_index, []).append(stepper.loss(batch).item())
        return {stage: sum(values) / len(values) for stage, values in by_stage.items()}

    before = losses()
    for step in range(15):
        assert set(stepper.take_step(step).losses) == {"flow"}
    after = losses()
    assert set(after) == {0, 1, 2} and all(after[stage] < 0.9 * before[stage] for stage in after)


def test_a_stopped_adaptation_ends_with_the_same_teacher_which_loads(
    make_config: MakeConfig, tiny_wan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "straight"
    # Losses and samples of the student's do not count.
    config = make_config(
        mmd=[{"join": "tokens"}], parts={"group": 2}, steps=3, sample_every=1, sample_prompts=["a red square"]
    )
    path.write_text(dump_config(config))
    assert run_command([str(path), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["steps"] == 3 and Path(printed["teacher"]) == out / "teacher"
    assert run_command([str(path), "--out", str(out)]) == 0  # nothing left to do
    with pytest.raises(ConfigError, match=r"holds the run of another command \(adapt\.yaml\)"):
        finished_summary(config, out)

    train_until(build_run(config, tmp_path / "stopped", adapts=True), 2)
    train(build_run(config, tmp_path / "stopped", adapts=True))
    file = "teacher/transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "stopped" / file).read_bytes() == (out / file).read_bytes()

    # What was encoded for the teacher before is still its own.
    assert fingerprint_encoders(out / "teacher") == fingerprint_encoders(tiny_wan_folder)
    model = load_teacher(str(out / "teacher"))
    text, noisy = model.encode_prompt(["a red square"]), torch.zeros(1, 4, 2, 4, 4)
    assert torch.isfinite(model.predict_velocity(noisy, 0.5, text)).all()


def test_a_student_s_start_is_no_matter_of_an_adaptation(make_config: MakeConfig, tmp_path: Path) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    # As of a student of whole weights that goes part of the way; what it starts from is not even looked at.
    path.write_text(dump_config(make_config(steps=1, start="pocket-wan-swd", kept_share=0.5)))
    assert run_command([str(path), "--out", str(out)]) == 0
    assert run_command([str(path), "--out", str(out)]) == 0  # its own file can be read again


def test_a_lora_loads_in_stock_diffusers(
    make_config: MakeConfig, tiny_wan_folder: Path, stock_inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run = build_run(make_config("lora", steps=2, ema_decay=0.0, lr=1e-2), tmp_path / "run", adapts=True)
    train(run)
    pipe = WanPipeline.from_pretrained(tiny_wan_folder)
    with torch.no_grad():
        pipe.load_lora_weights(tmp_path / "run" / "teacher")
        torch.testing.assert_close(
            pipe.transformer(**stock_inputs).sample, run.stepper.networks.student(**stock_inputs).sample
        )
