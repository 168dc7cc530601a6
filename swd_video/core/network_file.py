"""A small network in a file of its own: its weights, and what it is."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from swd_video.files import whole_file

_NetworkT = TypeVar("_NetworkT", bound=nn.Module)


def write_network(path: Path, network: nn.Module, kind: str, about: Mapping[str, Any]) -> None:
    """Write one safetensors file, which appears whole or not at all; `about` stands in its header under `kind`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with whole_file(path, durable=True) as draft:
        # One key, because safetensors writes several in random order.
        save_file(weights, draft, {kind: json.dumps(about)})


def read_network(path: Path, kind: str, make: Callable[[dict[str, Any]], _NetworkT]) -> _NetworkT:
    """Make a network from what a file says of it and read its weights, on the CPU, not to be trained.

    Raises:
        ValueError: if the file is missing or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            network = make(json.loads(file.metadata()[kind]))
        weights = {name: value.float() for name, value in load_file(path).items()}
        network.load_state_dict(weights)
        if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise ValueError(f"{broken[0]} holds numbers that are not finite")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # Of weights that do not fit, torch's first line says nothing.
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(f"{path}: cannot be read as {article} {kind}: {reason}") from None
    return network.requires_grad_(False).eval()
