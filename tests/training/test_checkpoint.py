"""Checkpoints: what is saved comes back bit for bit, and half a checkpoint is none."""

import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn

from swd_video.core.randomness import SampleDraws
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair, Learner
from swd_video.training.checkpoint import CheckpointFolder, TrainingState
from swd_video.training.optimizers import AdamWConfig, MuonConfig, build_optimizers


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
        self.optimizers = build_optimizers(self.parameters, optimizer, 1e-2)
        self.ema = EMAModel(list(self.parameters.values()), decay=0.9, foreach=True)

    def step(self, number: int) -> None:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        self.network(x).square().mean().backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.parameters.values())

    def state(self, learners: Sequence[Learner] = ()) -> TrainingState:
        return TrainingState(self.parameters, self.ema, self.optimizers, learners)

    def save(self, folder: CheckpointFolder, step: int, learners: Sequence[Learner] = ()) -> None:
        folder.save(step, self.state(learners), {"seconds": float(step)})

    def restore(
        self, folder: CheckpointFolder, learners: Sequence[Learner] = ()
    ) -> tuple[int, dict[str, float]]:
        return folder.restore(self.state(learners))

    def tensors(self) -> list[torch.Tensor]:
        return [*self.parameters.values(), *self.ema.shadow_params]


class _Critic(Learner):
    name = "critic"

    def __init__(self) -> None:
        self.parameters = {"weight": nn.Parameter(torch.ones(5))}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-2)

    def find_parameters(self, networks: Networks) -> dict[str, nn.Parameter]:
        return self.parameters

    def step(self) -> None:
        self._squares().backward()
        self.optimizer.step()

    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> torch.Tensor:
        return self._squares()

    def _squares(self) -> torch.Tensor:
        return self.parameters["weight"].square().sum()


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


def test_half_a_checkpoint_is_ignored_and_goes_with_the_next(tmp_path: Path) -> None:
    folder, training = CheckpointFolder(tmp_path, keep=2), _Training("adamw")
    half = tmp_path / ".step_00000005.0123456789abcdef.draft"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert training.restore(folder) == (0, {})
    training.save(folder, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


def _fill_with_nan(path: Path) -> None:
    weights = load_file(path)
    weights["out.bias"][1] = float("nan")
    save_file(weights, path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _forget(path: Path, key: str) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(b""), "weights.safetensors: "),
        ("weights.safetensors", _cut, "weights.safetensors: "),
        ("weights.safetensors", _fill_with_nan, "weights.safetensors: out.bias holds numbers that are not"),
        ("weights.safetensors", Path.unlink, "weights.safetensors is missing"),
        ("ema.safetensors", _cut, "ema.safetensors: "),
        ("ema.safetensors", _fill_with_nan, "ema.safetensors: out.bias holds numbers that are not"),
        ("optimizers.pt", _cut, "optimizers.pt: "),
        ("optimizers.pt", lambda path: path.write_bytes(b""), "optimizers.pt: "),
        ("optimizers.pt", Path.unlink, "optimizers.pt is missing"),
        ("optimizers.pt", lambda path: torch.save([], path), "optimizers.pt holds 0 optimizers, expected 1"),
        ("progress.json", lambda path: path.write_bytes(b""), "progress.json: "),
        ("progress.json", lambda path: _forget(path, "ema_step"), "progress.json lacks one of step, ema_step"),
        ("critic.safetensors", _cut, "critic.safetensors: "),
        ("critic_optimizer.pt", _cut, "critic_optimizer.pt: "),
        ("critic_optimizer.pt", Path.unlink, "critic_optimizer.pt is missing"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    file: str,
    damage: Callable[[Path], object],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    straight, critic = _Training("adamw"), _Critic()
    for number in range(4):
        straight.step(number)
        critic.step()
        if number > 1:
            straight.save(folder, number + 1, [critic])
            kept = kept if number > 2 else [tensor.clone() for tensor in straight.tensors()]
    damage(tmp_path / "step_00000004" / file)

    resumed, other = _Training("adamw", seed=1), _Critic()
    assert resumed.restore(folder, [other]) == (3, {"seconds": 3.0})
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"warning: {tmp_path}/step_00000004: the checkpoint is damaged: " in told
    assert reason in told and told.endswith(". It is passed over.\n")
    assert all(torch.equal(left, right) for left, right in zip(kept, resumed.tensors(), strict=True))
    # The damaged one goes with the next, which takes its place among those that are kept.
    resumed.save(folder, 3, [other])
    assert [path.name for path in folder.finished()] == ["step_00000003"]


def test_nothing_is_changed_by_what_cannot_be_restored(tmp_path: Path) -> None:
    folder, training = CheckpointFolder(tmp_path, keep=2), _Training("adamw")
    training.step(0)
    training.save(folder, 1)
    _cut(tmp_path / "step_00000001" / "optimizers.pt")
    other = _Training("adamw", seed=1)
    before = [tensor.clone() for tensor in other.tensors()]
    with pytest.raises(
        ValueError, match=r"step_00000001: the checkpoint is damaged.*none before it is whole"
    ) as error:
        other.restore(folder)
    assert "\n" not in str(error.value) and not other.optimizers[0].state
    assert all(torch.equal(left, right) for left, right in zip(before, other.tensors(), strict=True))


@pytest.mark.parametrize("room", [1000, 4000])  # nothing fits; weights do, but no optimizer
def test_a_full_disk_is_one_line_and_older_checkpoints_stay(room: int, tmp_path: Path) -> None:
    folder, training = CheckpointFolder(tmp_path, keep=2), _Training("adamw", width=64)
    training.step(0)
    training.save(folder, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="step_00000002: the checkpoint cannot be written: ") as error:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            training.save(folder, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert _Training("adamw", width=64).restore(folder)[0] == 1


def test_a_checkpoint_of_another_student_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    _Training("adamw").save(folder, 1)
    with pytest.raises(ValueError, match="another student"):
        _Training("adamw", width=5).restore(folder)


def test_damaged_checkpoints_are_no_steps_that_were_taken(tmp_path: Path) -> None:
    folder, training = CheckpointFolder(tmp_path / "checkpoints", keep=3), _Training("adamw")
    for step in (2, 4, 6):
        training.save(folder, step)
    _cut(tmp_path / "checkpoints" / "step_00000006" / "weights.safetensors")
    folder.check_steps(4, training.state())
    with pytest.raises(ValueError, match=rf"train\.steps: 3, but the run in {tmp_path} has taken 4\. "):
        folder.check_steps(3, training.state())
    with pytest.raises(ValueError, match="another student"):
        folder.check_steps(3, _Training("adamw", width=5).state())
