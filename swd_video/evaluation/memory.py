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
    before = _resident_bytes()
    run()
    return (_highest_resident_bytes() - before) / 2**30


def in_fresh_process(call: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a module's function in a new process and return what it gives.

    Args:
        call: the function; it, its arguments and its result must pickle.
        arguments: for it.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def _resident_bytes() -> int:
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the high-water mark is the nearest thing there is
        return _highest_resident_bytes()
    return pages * resource.getpagesize()


def _highest_resident_bytes() -> int:
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
