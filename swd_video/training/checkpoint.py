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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from swd_video.files import remove_leftovers, whole_folder
from swd_video.models.fsdp import full_optimizer_state, full_tensors, load_optimizer_state, shard_like
from swd_video.objectives.learners import Learner

_WEIGHTS, _AVERAGE = "weights.safetensors", "ema.safetensors"
_OPTIMIZERS, _PROGRESS = "optimizers.pt", "progress.json"
# What reading a file of ours raises when there is anything else in it.
_DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip


class CheckpointFolder:
    """The latest checkpoints of a run, one folder each, named by the number of finished steps.

    Args:
        folder: where they lie; made on the first save.
        keep: how many stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def finished(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name))

    def save(
        self,
        step: int,
        parameters: Mapping[str, nn.Parameter],
        ema: EMAModel,
        optimizers: Sequence[torch.optim.Optimizer],
        progress: Mapping[str, Any],
        learners: Sequence[Learner] = (),
        *,
        write: bool = True,
    ) -> Path:
        """Write a checkpoint whole, then drop the oldest, and those of later steps, which `restore` passed over.

        Where weights are divided among processes, all call this together, and one of them writes.

        Args:
            step: finished steps.
            parameters: the trainable weights by name.
            ema: their running average, in the same order.
            optimizers: in the order in which `restore` will get them.
            progress: anything JSON can hold.
            learners: the networks that learn beside the student.
            write: false gathers only, and keeps nothing.

        Raises:
            OSError: if it cannot be written, as on a full disk; checkpoints before it stay.
        """
        final = self.folder / f"step_{step:08d}"
        average = dict(zip(parameters, ema.shadow_params, strict=True))
        tensors = {_WEIGHTS: full_tensors(parameters, write), _AVERAGE: full_tensors(average, write)}
        states: dict[str, Any] = {_OPTIMIZERS: [full_optimizer_state(one, write) for one in optimizers]}
        for learner in learners:
            tensors[_weights_of(learner)] = full_tensors(learner.parameters, write)
            states[_optimizer_of(learner)] = full_optimizer_state(learner.optimizer, write)
        if not write:
            return final
        state = {"step": step, "ema_step": ema.optimization_step, "progress": dict(progress)}
        try:
            with whole_folder(final, durable=True) as draft:
                for name, weights in tensors.items():
                    save_file(weights, draft / name)
                for name, saved in states.items():
                    torch.save(saved, draft / name)
                (draft / _PROGRESS).write_text(json.dumps(state, indent=2))
        except (OSError, RuntimeError, SafetensorError) as error:
            # Neither library says which file it had no room for, and torch not even that there was none.
            reason = (
                "no more room, or no right to write" if isinstance(error, RuntimeError) else _reason(error)
            )
            raise OSError(
                f"{final}: the checkpoint cannot be written: {reason}. Those before it stay; make room and run "
                "the same command again."
            ) from error
        kept = [path for path in self.finished() if path <= final][-self._keep :]
        for other in self.finished():
            if other not in kept:
                shutil.rmtree(other)
        return final

    def restore(
        self,
        parameters: Mapping[str, nn.Parameter],
        ema: EMAModel,
        optimizers: Sequence[torch.optim.Optimizer],
        learners: Sequence[Learner] = (),
        *,
        speaks: bool = True,
    ) -> tuple[int, dict[str, Any]]:
        """Put the latest checkpoint that is whole back in place.

        One is read and checked to its end before anything is changed. A damaged one is named on stderr and passed over.

        Args:
            parameters: the trainable weights by name.
            ema: their running average, in the same order.
            optimizers: as `save` was given them.
            learners: the networks that learn beside the student.
            speaks: false keeps quiet, and leaves it to another process to delete what killed runs left unfinished.

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
                moved, states, state = _read(folder, parameters, ema, optimizers, learners)
            except _OtherStudentError:
                raise
            except _DAMAGED as error:
                damage = f"{folder}: the checkpoint is damaged: {_reason(error)}"
                if speaks:
                    print(f"warning: {damage}. It is passed over.", file=sys.stderr)
                continue
            with torch.no_grad():
                for here, there in moved:
                    for name, weight in here.items():
                        weight.copy_(shard_like(there[name], weight))
            for optimizer, kept, _ in states:
                load_optimizer_state(optimizer, kept)
            ema.optimization_step = state["ema_step"]
            return state["step"], state["progress"]
        if damage:
            raise ValueError(f"{damage}, and none before it is whole. Delete {self.folder} to start anew.")
        return 0, {}


_Kept: TypeAlias = tuple[
    list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]],
    list[tuple[torch.optim.Optimizer, dict[str, Any], str]],
    dict[str, Any],
]


class _OtherStudentError(ValueError):
    """A whole checkpoint that belongs elsewhere: the one before would, too."""


def _read(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    ema: EMAModel,
    optimizers: Sequence[torch.optim.Optimizer],
    learners: Sequence[Learner],
) -> _Kept:
    """All of a checkpoint, checked: weights to be changed and what they are to be, optimizers likewise, progress."""
    state = _read_progress(folder / _PROGRESS)
    weights = _read_weights(folder / _WEIGHTS)
    if _shapes(weights) != _shapes(parameters):
        raise _OtherStudentError(
            f"{folder}: holds another student than this config makes; choose another --out"
        )
    average = _read_weights(folder / _AVERAGE, parameters)
    saved = _read_pickle(folder / _OPTIMIZERS)
    if len(saved) != len(optimizers):
        raise ValueError(f"{_OPTIMIZERS} holds {len(saved)} optimizers, expected {len(optimizers)}")
    moved: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]] = [
        (parameters, weights),
        (dict(zip(parameters, ema.shadow_params, strict=True)), average),
    ]
    states = list(zip(optimizers, saved, [_OPTIMIZERS] * len(saved), strict=True))
    for learner in learners:
        moved.append((learner.parameters, _read_weights(folder / _weights_of(learner), learner.parameters)))
        name = _optimizer_of(learner)
        states.append((learner.optimizer, _read_pickle(folder / name), name))
    for optimizer, kept, name in states:
        _check_optimizer(optimizer, kept, name)
    return moved, states, state


def _read_progress(path: Path) -> dict[str, Any]:
    state = _load(path, lambda path: json.loads(path.read_text(encoding="utf-8")))
    kinds = {"step": int, "ema_step": int, "progress": dict}
    if not isinstance(state, dict) or any(
        not isinstance(state.get(key), kind) for key, kind in kinds.items()
    ):
        raise ValueError(f"{path.name} lacks one of {', '.join(kinds)}")
    return state


def _read_weights(path: Path, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = _load(path, load_file)
    if like is not None and _shapes(weights) != _shapes(like):
        raise ValueError(f"{path.name} does not hold the weights of this run")
    _check_finite(path.name, weights.items())
    return weights


def _read_pickle(path: Path) -> Any:
    return _load(path, lambda path: torch.load(path, map_location="cpu", weights_only=True))


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(path)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except _DAMAGED as error:
        raise ValueError(f"{path.name}: {_reason(error)}") from None


def _check_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], name: str) -> None:
    """Refuse what is no state of this optimizer, which it would find too late or never."""
    here = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in here]:
        raise ValueError(f"{name} does not hold the optimizers of this run")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, kept in saved["state"].items():
        tensors = {key: value for key, value in kept.items() if isinstance(value, Tensor)}
        if any(value.ndim and value.shape != weights[index].shape for value in tensors.values()):
            raise ValueError(f"{name} does not hold the optimizers of this run")
        _check_finite(name, tensors.items())


def _check_finite(name: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    for key, value in tensors:
        # The sum is finite unless a number is not, or all of them together are too large: then look at each.
        if not math.isfinite(value.sum(dtype=torch.float64)) and not value.isfinite().all():
            raise ValueError(f"{name}: {key} holds numbers that are not finite")


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _weights_of(learner: Learner) -> str:
    return f"{learner.name}.safetensors"


def _optimizer_of(learner: Learner) -> str:
    return f"{learner.name}_optimizer.pt"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
