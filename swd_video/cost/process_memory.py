"""The most memory that a computation held at once."""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def peak_gib_above(run: Callable[[], object], device: torch.device) -> float:
    """GiB that a call needs at its peak, above what is held before it.

    On the CPU this reads the process's high-water mark, which an earlier, higher peak would hide in: the figure is
    then too large, never too small. `in_fresh_process` has none.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**30
    before = _status_bytes("VmRSS") or highest_resident_bytes()
    run()
    return (highest_resident_bytes() - before) / 2**30


def in_fresh_process(call: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a module's function in a new process and return what it gives; all of this must pickle."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def highest_bytes(device: torch.device) -> int:
    """The most memory held so far: by tensors on a CUDA device since its statistics were reset, or by the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else highest_resident_bytes()


def highest_resident_bytes() -> int:
    """The most memory that this process has held so far."""
    # Linux keeps `ru_maxrss` over exec, so a child would be charged with its parent's size.
    return _status_bytes("VmHWM") or _highest_since_start()


def _status_bytes(name: str) -> int:
    """A line of this process's status in bytes; 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    kibibytes = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kibibytes[0]) * 1024 if kibibytes else 0


def _highest_since_start() -> int:
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
