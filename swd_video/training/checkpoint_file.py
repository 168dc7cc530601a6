"""The checkpoint of a small training: one file, replaced whole, that only the same recipe may continue."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from swd_video.files import whole_file
from swd_video.plain_text import describe_error, first_line
from swd_video.training.checkpoint import DAMAGED

_NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Write the `state_dict` of everything in `state`, the steps done, and the plain values that weights depend on.

    Raises:
        OSError: if it cannot be written, as on a full disk; the one before it stays.
    """
    path, parts = folder / _NAME, {name: part.state_dict() for name, part in state.items()}
    try:
        with whole_file(path, durable=True) as draft:
            torch.save({"step": step, "recipe": dict(recipe), "state": parts}, draft)
    except RuntimeError as error:  # of torch, which does not say that there was no room
        raise OSError(
            f"{path}: cannot be written: no more room, or no right to write ({first_line(error)}). The one before it "
            "stays; make room and run the same command again."
        ) from error


def read_recipe(folder: Path) -> dict[str, Any]:
    """The plain values that the weights of a folder's checkpoint depend on; empty where there is none.

    Raises:
        ValueError: if it is damaged.
    """
    path = folder / _NAME
    if not path.exists():
        return {}
    with _as_damage(path):
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["recipe"])


def load_checkpoint(folder: Path, state: Mapping[str, Any], recipe: Mapping[str, Any]) -> int:
    """Load what `save_checkpoint` wrote, if it is there; returns the number of steps done.

    Raises:
        ValueError: if the checkpoint was made by another recipe: going on would be neither of the two. Or if it is
            damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    if not path.exists():
        return 0
    with _as_damage(path):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        there, step, parts = dict(saved["recipe"]), int(saved["step"]), dict(saved["state"])
    for key in dict.fromkeys((*recipe, *there)):
        if there.get(key) != recipe.get(key):
            raise ValueError(
                f"{path}: made with another {key} ({there.get(key)} there, {recipe.get(key)} now); use the same "
                "options, another --out, or delete the checkpoint."
            )
    with _as_damage(path):
        for name, part in state.items():
            part.load_state_dict(parts[name])
    return step


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, PermissionError):
        raise
    except DAMAGED as error:
        raise ValueError(
            f"{path}: the checkpoint is damaged: {describe_error(error)}. Delete it to start anew."
        ) from None
