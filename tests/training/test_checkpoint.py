"""Checkpoints: what is saved comes back bit for bit, and half a checkpoint is none."""

from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from swd_video.config.train import AdamWConfig, FullTrainConfig, MuonConfig
from swd_video.training.checkpoint import CheckpointFolder
from swd_video.training.optimizers import build_optimizers


class _Network(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, 3))
        self.out = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.blocks(x))


class _Training:
    def __init__(self, kind: str, seed: int = 0, width: int = 4) -> None:
        torch.manual_seed(seed)
        self.network = _Network(width)
        self.parameters = dict(self.network.named_parameters())
        optimizer = MuonConfig() if kind == "muon" else AdamWConfig()
        self.optimizers = build_optimizers(self.parameters, FullTrainConfig(optimizer=optimizer, lr=1e-2))
        self.ema = EMAModel(list(self.parameters.values()), decay=0.9, foreach=True)

    def step(self, number: int) -> None:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        self.network(x).square().mean().backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.parameters.values())

    def save(self, folder: CheckpointFolder, step: int) -> None:
        folder.save(step, self.parameters, self.ema, self.optimizers, {"seconds": float(step)})

    def restore(self, folder: CheckpointFolder) -> tuple[int, dict[str, float]]:
        return folder.restore(self.parameters, self.ema, self.optimizers)

    def tensors(self) -> list[torch.Tensor]:
        return [*self.parameters.values(), *self.ema.shadow_params]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_going_on_from_a_checkpoint_is_bitwise_the_same(kind: str, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    straight = _Training(kind)
    for number in range(6):
        straight.step(number)
        if number == 3:
            straight.save(folder, 4)
    resumed = _Training(kind, seed=1)
    assert resumed.restore(folder) == (4, {"seconds": 4.0})
    for number in (4, 5):
        resumed.step(number)
    for left, right in zip(straight.tensors(), resumed.tensors(), strict=True):
        assert torch.equal(left, right)


def test_only_the_latest_stay_and_the_last_one_is_used(tmp_path: Path) -> None:
    folder, training = CheckpointFolder(tmp_path, keep=2), _Training("adamw")
    for step in (1, 2, 3, 10):
        training.save(folder, step)
    assert [path.name for path in folder.finished()] == ["step_00000003", "step_00000010"]
    assert training.restore(folder)[0] == 10


def test_half_a_checkpoint_is_ignored_and_overwritten(tmp_path: Path) -> None:
    folder, training = CheckpointFolder(tmp_path, keep=2), _Training("adamw")
    half = tmp_path / "step_00000005.partial"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert training.restore(folder) == (0, {})
    training.save(folder, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


def test_a_checkpoint_of_another_student_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    _Training("adamw").save(folder, 1)
    with pytest.raises(ValueError, match="another student"):
        _Training("adamw", width=5).restore(folder)
