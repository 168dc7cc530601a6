"""Clips, a manifest and configs for distilling the tiny pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from swd_video.core.schedule import ScaleSchedule
from swd_video.data.video import write_video
from swd_video.training.config import DistillConfig, load_config

_COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}

MakeConfig = Callable[..., DistillConfig]


def _moving_square(colour: tuple[int, int, int], step: int) -> np.ndarray:
    frames = np.full((12, 48, 64, 3), 200, dtype=np.uint8)
    for number, frame in enumerate(frames):
        left = 4 + step * number
        frame[16:32, left : left + 16] = colour
    return frames


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of 12 frames at 16 a second: three colours, of which the captions tell, at two speeds."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for name, colour in _COLOURS.items():
        for speed, step in (("slowly", 1), ("fast", 3)):
            path = f"{name}-{speed}.mp4"
            write_video(folder / path, _moving_square(colour, step), 16.0)
            lines.append(json.dumps({"path": path, "caption": f"a {name} square moves right"}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clips are encoded, by the first run of the session."""
    return tmp_path_factory.mktemp("cache") / "tiny"


@pytest.fixture
def make_config(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, manifest: Path, cache: Path, tmp_path: Path
) -> MakeConfig:
    """Write a YAML config, with changes to its `train` section, `loss.mmd` and other parts of `loss`, and load it."""

    def make(
        kind: str = "full",
        *,
        loss: dict[str, Any] | None = None,
        parts: dict[str, Any] | None = None,
        **train: Any,
    ) -> DistillConfig:
        values = {
            "model": str(tiny_wan_folder),
            "seed": 5,
            "data": {"manifest": str(manifest), "cache": str(cache)},
            "schedule": tiny_schedule.as_dict(),
            "loss": {"mmd": loss or {}, **(parts or {})},
            "train": {"kind": kind, "steps": 4, "batch_size": 2, "checkpoint_every": 2, "lr": 1e-3, **train},
        }
        if kind == "lora":
            values["train"].setdefault("rank", 4)
        path = tmp_path / "config-in.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_config(path)

    return make


@pytest.fixture
def stock_inputs() -> dict[str, torch.Tensor]:
    """What diffusers' own transformer of the tiny pipeline is called with."""
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 4, 3, 4, 4, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 48, 16, generator=generator),
    }
