"""Two processes on the CPU take the steps of one."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from swd_video.config.load import dump_config
from swd_video.config.schema import DistillConfig
from swd_video.training.build import build_run
from swd_video.training.loop import train

MakeConfig = Callable[..., DistillConfig]
ROOT = Path(__file__).parents[2]


def start_two(words: list[str]) -> list[subprocess.Popen[str]]:
    """What the launcher does: the same command twice, with a place to meet in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "1",
    }
    command = [sys.executable, "-m", "swd_video.cli.main", "distill", *words]
    return [
        subprocess.Popen(
            command,
            env={**common, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in ("0", "1")
    ]


def test_two_processes_end_with_the_losses_of_one(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        "lora",
        loss={"group": 2, "join": "tokens", "kernel": "rbf"},
        parts={"dmd": {"critic_rank": 2, "scale_adapted": True}, "gan": {}},
        steps=3,
        batch_size=8,
        stages_per_step=2,
        micro_batch_size=2,
    )
    alone = train(build_run(config, tmp_path / "one"))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    processes = start_two([str(path), "--out", str(tmp_path / "two"), "--json"])
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    printed = yaml.safe_load(outputs[0][0])
    assert outputs[1][0] == "" and "error" not in outputs[1][1]
    assert printed["stage_losses"] == pytest.approx(alone.stage_losses, rel=1e-4)
    students = [
        load_file(tmp_path / run / "student/pytorch_lora_weights.safetensors") for run in ("one", "two")
    ]
    for name, weight in students[0].items():
        torch.testing.assert_close(students[1][name], weight, rtol=1e-3, atol=1e-5)
