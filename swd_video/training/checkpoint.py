"""Checkpoints that appear whole or not at all, and from which a run goes on bit for bit.

Noise, stages and order of clips are functions of the step, so a checkpoint holds only what steps change: the trainable
weights, their running average and the optimizers.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from swd_video.training.opponents import Opponent
from swd_video.training.sharding import load_optimizer_state, share_like, whole, whole_optimizer_state

_PARTIAL = ".partial"
_WEIGHTS, _AVERAGE = "weights.safetensors", "ema.safetensors"
_OPTIMIZERS, _PROGRESS = "optimizers.pt", "progress.json"


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
        """Whole checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if not path.name.endswith(_PARTIAL))

    def save(
        self,
        step: int,
        parameters: Mapping[str, nn.Parameter],
        ema: EMAModel,
        optimizers: Sequence[torch.optim.Optimizer],
        progress: Mapping[str, Any],
        opponents: Sequence[Opponent] = (),
        *,
        write: bool = True,
    ) -> Path:
        """Write a checkpoint under another name, rename it, then drop the oldest.

        Where weights are divided among processes, all call this together, and one of them writes.

        Args:
            step: finished steps.
            parameters: the trainable weights by name.
            ema: their running average, in the same order.
            optimizers: in the order in which `restore` will get them.
            progress: anything JSON can hold.
            opponents: the networks that learn beside the student.
            write: false gathers only.
        """
        final = self.folder / f"step_{step:08d}"
        tensors = {
            _WEIGHTS: _on_cpu(dict(parameters)),
            _AVERAGE: _on_cpu(dict(zip(parameters, ema.shadow_params, strict=True))),
        }
        states: dict[str, Any] = {_OPTIMIZERS: [whole_optimizer_state(optimizer) for optimizer in optimizers]}
        for opponent in opponents:
            tensors[f"{opponent.name}.safetensors"] = _on_cpu(opponent.parameters)
            states[f"{opponent.name}_optimizer.pt"] = whole_optimizer_state(opponent.optimizer)
        if not write:
            return final
        partial = final.with_name(final.name + _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, weights in tensors.items():
            save_file(weights, partial / name)
        for name, saved in states.items():
            torch.save(saved, partial / name)
        state = {"step": step, "ema_step": ema.optimization_step, "progress": dict(progress)}
        (partial / _PROGRESS).write_text(json.dumps(state, indent=2))
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        for old in self.finished()[: -self._keep]:
            shutil.rmtree(old)
        return final

    def restore(
        self,
        parameters: Mapping[str, nn.Parameter],
        ema: EMAModel,
        optimizers: Sequence[torch.optim.Optimizer],
        opponents: Sequence[Opponent] = (),
    ) -> tuple[int, dict[str, Any]]:
        """Put the latest checkpoint back in place.

        Returns:
            (finished steps, what `save` was given as progress); (0, {}) where there is no checkpoint.

        Raises:
            ValueError: if the checkpoint is of another student.
        """
        finished = self.finished()
        if not finished:
            return 0, {}
        latest = finished[-1]
        weights, average = load_file(latest / _WEIGHTS), load_file(latest / _AVERAGE)
        if _shapes(weights) != _shapes(parameters):
            raise ValueError(f"{latest}: holds another student than this config makes; choose another --out")
        state = json.loads((latest / _PROGRESS).read_text())
        with torch.no_grad():
            for (name, parameter), shadow in zip(parameters.items(), ema.shadow_params, strict=True):
                parameter.copy_(share_like(weights[name], parameter))
                shadow.copy_(share_like(average[name], parameter))
        ema.optimization_step = state["ema_step"]
        for opponent in opponents:
            weights = load_file(latest / f"{opponent.name}.safetensors")
            with torch.no_grad():
                for name, parameter in opponent.parameters.items():
                    parameter.copy_(share_like(weights[name], parameter))
            path = latest / f"{opponent.name}_optimizer.pt"
            load_optimizer_state(opponent.optimizer, torch.load(path, map_location="cpu", weights_only=True))
        saved = torch.load(latest / _OPTIMIZERS, map_location="cpu", weights_only=True)
        for optimizer, optimizer_state in zip(optimizers, saved, strict=True):
            load_optimizer_state(optimizer, optimizer_state)
        return state["step"], state["progress"]


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor.detach()).to("cpu").contiguous() for name, tensor in tensors.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
