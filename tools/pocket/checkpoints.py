"""Checkpoints of the pocket trainers: one file, replaced whole."""

from pathlib import Path
from typing import Any

import torch


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the `state_dict` of everything in `state`, and the number of steps done."""
    temporary = folder / "checkpoint.pt.part"
    torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, temporary)
    temporary.replace(folder / "checkpoint.pt")


def load_checkpoint(folder: Path, state: dict[str, Any]) -> int:
    """Load what `save_checkpoint` wrote, if it is there; returns the number of steps done."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])
