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
    ) -> Path:
        """Write a checkpoint under another name, rename it, then drop the oldest.

        Args:
            step: finished steps.
            parameters: the trainable weights by name.
            ema: their running average, in the same order.
            optimizers: in the order in which `restore` will get them.
            progress: anything JSON can hold.
            opponents: the networks that learn beside the student.
        """
        final = self.folder / f"step_{step:08d}"
        partial = final.with_name(final.name + _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_on_cpu(dict(parameters)), partial / _WEIGHTS)
        save_file(_on_cpu(dict(zip(parameters, ema.shadow_params, strict=True))), partial / _AVERAGE)
        torch.save([optimizer.state_dict() for optimizer in optimizers], partial / _OPTIMIZERS)
        for opponent in opponents:
            save_file(_on_cpu(opponent.parameters), partial / f"{opponent.name}.safetensors")
            torch.save(opponent.optimizer.state_dict(), partial / f"{opponent.name}_optimizer.pt")
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
                parameter.copy_(weights[name])
                shadow.copy_(average[name])
        ema.optimization_step = state["ema_step"]
        for opponent in opponents:
            weights = load_file(latest / f"{opponent.name}.safetensors")
            with torch.no_grad():
                for name, parameter in opponent.parameters.items():
                    parameter.copy_(weights[name])
            path = latest / f"{opponent.name}_optimizer.pt"
            opponent.optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        saved = torch.load(latest / _OPTIMIZERS, map_location="cpu", weights_only=True)
        for optimizer, optimizer_state in zip(optimizers, saved, strict=True):
            optimizer.load_state_dict(optimizer_state)
        return state["step"], state["progress"]


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
