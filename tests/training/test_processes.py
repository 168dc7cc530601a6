"""Two processes on the CPU take the steps of one."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swd_video.config import dump_config
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig
from swd_video.training.loop import train

from ..forked import Forked, run_forked

MakeConfig = Callable[..., DistillConfig]


def launch_two(words: list[str]) -> Forked:
    """Two processes, started as docs/distill.md says, with a place to meet that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = "import sys; from accelerate.commands.launch import main; sys.exit(main())"
    command = ["--main_process_port", port, "--module", "swd_video.cli.main", "distill", *words]
    config = ["--config_file", "configs/accelerate/cpu2.yaml"]
    return run_forked(launcher, *config, *command, within_s=300, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="1")


def test_two_processes_end_with_the_losses_of_one(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        "lora",
        mmd=[{"kernel": {"kind": "rbf"}, "join": "tokens"}],
        parts={"group": 2, "dmd": {"critic_rank": 2, "scale_adapted": True}, "gan": {}},
        steps=3,
        batch_size=8,
        stages_per_step=2,
        micro_batch_size=2,
    )
    alone = train(build_run(config, tmp_path / "one"))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    result = launch_two([str(path), "--out", str(tmp_path / "two"), "--json"])
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)  # of one process: the other is silent
    assert "error" not in result.stderr
    assert printed["stage_losses"] == pytest.approx(alone.stage_losses, rel=1e-4)
    students = [
        load_file(tmp_path / run / "student/pytorch_lora_weights.safetensors") for run in ("one", "two")
    ]
    for name, weight in students[0].items():
        torch.testing.assert_close(students[1][name], weight, rtol=1e-3, atol=1e-5)
