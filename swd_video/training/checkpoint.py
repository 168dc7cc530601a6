"""Checkpoints that appear whole or not at all, survive a power cut, and from which a run goes on bit for bit.

Noise, stages and order of clips are functions of the step, so a checkpoint holds only what steps change: the trainable
weights, their running average and the optimizers.
"""

import json
import math
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from swd_video.files import remove_leftovers, whole_folder
from swd_video.models.fsdp import full_optimizer_state, full_tensors, load_optimizer_state, shard_like
from swd_video.objectives.objective import Learner

_WEIGHTS, _AVERAGE = "weights.safetensors", "ema.safetensors"
_OPTIMIZERS, _PROGRESS = "optimizers.pt", "progress.json"
DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip
"""What reading a checkpoint's file raises when there is anything else in it."""


class TrainingState:
    """All that steps change, by the file of a checkpoint that holds it.

    The average is in the order of the parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        ema: EMAModel,
        optimizers: Sequence[torch.optim.Optimizer],
        learners: Sequence[Learner],
    ) -> None:
        self.ema = ema
        self.tensors: dict[str, Mapping[str, Tensor]] = {
            _WEIGHTS: parameters,
            _AVERAGE: dict(zip(parameters, ema.shadow_params, strict=True)),
        }
        self.optimizers: dict[str, Sequence[torch.optim.Optimizer]] = {_OPTIMIZERS: optimizers}
        for learner in learners:
            self.tensors[f"{learner.name}.safetensors"] = learner.parameters
            self.optimizers[f"{learner.name}_optimizer.pt"] = (learner.optimizer,)


class CheckpointFolder:
    """The latest checkpoints of a run, one folder each, named by the number of finished steps."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def finished(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name))

    def save(
        self, step: int, state: TrainingState, progress: Mapping[str, Any], *, write: bool = True
    ) -> None:
        """Write a checkpoint whole, then drop the oldest, and those of later steps, which `restore` passed over.

        Where weights are divided among processes, all call this together, and one of them writes.

        Raises:
            OSError: if it cannot be written, as on a full disk; checkpoints before it stay.
        """
        final = self.folder / f"step_{step:08d}"
        tensors = {file: full_tensors(some, write) for file, some in state.tensors.items()}
        optimizers = {
            file: [full_optimizer_state(one, write) for one in some]
            for file, some in state.optimizers.items()
        }
        if not write:
            return
        facts = {"step": step, "ema_step": state.ema.optimization_step, "progress": dict(progress)}
        try:
            with whole_folder(final, durable=True) as draft:
                for file, weights in tensors.items():
                    save_file(weights, draft / file)
                for file, states in optimizers.items():
                    torch.save(states if file == _OPTIMIZERS else states[0], draft / file)
                (draft / _PROGRESS).write_text(json.dumps(facts, indent=2))
        except (OSError, RuntimeError, SafetensorError) as error:
            # Neither library says which file it had no room for, and torch not even that there was none.
            reason = (
                "no more room, or no right to write" if isinstance(error, RuntimeError) else _reason(error)
            )
            raise OSError(
                f"{final}: the checkpoint cannot be written: {reason}. Those before it stay; make room and run "
                "the same command again."
            ) from error
        latest = [path for path in self.finished() if path <= final][-self._keep :]
        for other in self.finished():
            if other not in latest:
                shutil.rmtree(other)

    def check_steps(self, steps: int, state: TrainingState) -> None:
        """Refuse a run of fewer steps than were taken; damaged checkpoints, which `restore` passes over, do not count.

        Raises:
            ValueError: saying how many were, or if a checkpoint is of another student.
        """
        for folder in reversed(self.finished()):
            done = int(folder.name.removeprefix("step_"))
            if done <= steps:
                return
            try:
                _read(folder, state)
            except _DamagedError:
                continue
            raise ValueError(
                f"train.steps: {steps}, but the run in {self.folder.parent} has taken {done}. Choose another --out, "
                f"or no fewer than {done}."
            )

    def restore(self, state: TrainingState, *, speaks: bool = True) -> tuple[int, dict[str, Any]]:
        """Put the latest checkpoint that is whole back in place.

        One is read and checked to its end before anything is changed. A damaged one is named on stderr and passed over.

        One that does not speak leaves it to another process to delete what killed runs left unfinished.

        Returns:
            (finished steps, what `save` was given as progress); (0, {}) where there is no checkpoint.

        Raises:
            ValueError: if the checkpoint is of another student, or there are some and none is whole.
        """
        if speaks and self.folder.is_dir():
            remove_leftovers(self.folder)
        damage = ""
        for folder in reversed(self.finished()):
            try:
                facts, tensors, optimizers = _read(folder, state)
            except _DamagedError as error:
                damage = str(error)
                if speaks:
                    print(f"warning: {damage}. It is passed over.", file=sys.stderr)
                continue
            with torch.no_grad():
                for file, weights in state.tensors.items():
                    for name, weight in weights.items():
                        weight.copy_(shard_like(tensors[file][name], weight))
            for file, here in state.optimizers.items():
                for optimizer, saved in zip(here, optimizers[file], strict=True):
                    load_optimizer_state(optimizer, saved)
            state.ema.optimization_step = facts["ema_step"]
            return facts["step"], facts["progress"]
        if damage:
            raise ValueError(f"{damage}, and none before it is whole. Delete {self.folder} to start anew.")
        return 0, {}


class _OtherStudentError(ValueError):
    """A whole checkpoint that belongs elsewhere: the one before would, too."""


class _DamagedError(ValueError):
    """A checkpoint that cannot be read to its end: the one before may be whole."""


def _read(
    folder: Path, state: TrainingState
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, list[dict[str, Any]]]]:
    """What a checkpoint holds: progress, tensors and optimizers, each by its file."""
    try:
        facts, tensors = _read_progress(folder / _PROGRESS), _read_tensors(folder, state)
        return facts, tensors, {f: _read_optimizers(folder / f, some) for f, some in state.optimizers.items()}
    except _OtherStudentError:
        raise
    except DAMAGED as error:
        raise _DamagedError(f"{folder}: the checkpoint is damaged: {_reason(error)}") from error


def _read_progress(path: Path) -> dict[str, Any]:
    facts = _load(path, lambda path: json.loads(path.read_text(encoding="utf-8")))
    kinds = {"step": int, "ema_step": int, "progress": dict}
    if not isinstance(facts, dict) or any(
        not isinstance(facts.get(key), kind) for key, kind in kinds.items()
    ):
        raise ValueError(f"{path.name} lacks one of {', '.join(kinds)}")
    return facts


def _read_tensors(folder: Path, state: TrainingState) -> dict[str, dict[str, Tensor]]:
    read: dict[str, dict[str, Tensor]] = {}
    for file, here in state.tensors.items():
        read[file] = _load(folder / file, load_file)
        _check_finite(file, read[file])
        if _shapes(read[file]) == _shapes(here):
            continue
        if file == _WEIGHTS:
            raise _OtherStudentError(
                f"{folder}: holds another student than this config makes; choose another --out"
            )
        raise ValueError(f"{file} does not hold the weights of this run")
    return read


def _read_optimizers(path: Path, here: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """States of the optimizers, refused where they are none of these, which these would find too late or never."""
    saved = _load(path, lambda path: torch.load(path, map_location="cpu", weights_only=True))
    states: list[dict[str, Any]] = saved if path.name == _OPTIMIZERS else [saved]
    if len(states) != len(here):
        raise ValueError(f"{path.name} holds {len(states)} optimizers, expected {len(here)}")
    for optimizer, state in zip(here, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        fits = [group["params"] for group in state["param_groups"]] == [group["params"] for group in groups]
        for index, values in state["state"].items() if fits else ():
            tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
            fits &= all(value.ndim == 0 or value.shape == weights[index].shape for value in tensors.values())
            _check_finite(path.name, tensors)
        if not fits:
            raise ValueError(f"{path.name} does not hold the optimizers of this run")
    return states


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(path)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except DAMAGED as error:
        raise ValueError(f"{path.name}: {_reason(error)}") from None


def _check_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    for key, value in tensors.items():
        # The sum is finite unless a number is not, or all of them together are too large: then look at each.
        if not math.isfinite(value.sum(dtype=torch.float64)) and not value.isfinite().all():
            raise ValueError(f"{file}: {key} holds numbers that are not finite")


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
