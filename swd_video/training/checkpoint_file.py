"""The checkpoint of a small training: one file, replaced whole, that only the same recipe may continue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from swd_video.files import whole_file


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Write the `state_dict` of everything in `state`, the steps done, and the plain values that weights depend on."""
    parts = {name: part.state_dict() for name, part in state.items()}
    with whole_file(folder / "checkpoint.pt") as draft:
        torch.save({"step": step, "recipe": dict(recipe), "state": parts}, draft)


def read_recipe(folder: Path) -> dict[str, Any]:
    """The plain values that the weights of a folder's checkpoint depend on; empty where there is none."""
    path = folder / "checkpoint.pt"
    return dict(torch.load(path, weights_only=True, mmap=True)["recipe"]) if path.exists() else {}


def load_checkpoint(folder: Path, state: Mapping[str, Any], recipe: Mapping[str, Any]) -> int:
    """Load what `save_checkpoint` wrote, if it is there; returns the number of steps done.

    Raises:
        ValueError: if the checkpoint was made by another recipe: going on would be neither of the two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    there = saved["recipe"]
    for key in dict.fromkeys((*recipe, *there)):
        if there.get(key) != recipe.get(key):
            raise ValueError(
                f"{path}: made with another {key} ({there.get(key)} there, {recipe.get(key)} now); use the same "
                "options, another --out, or delete the checkpoint."
            )
    for name, part in state.items():
        part.load_state_dict(saved["state"][name])
    return int(saved["step"])
