"""What a process is told for work with tensors: threads that wait soon sleep, freed memory is kept, calls have room."""

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

# Numbers of <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_TOP_PAD_BYTES = 256 * 2**20
_FRAME_SLOTS = 70_000
_Result = TypeVar("_Result")
_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""With any of them somebody has said how threads wait."""


def prepare_process() -> None:
    """Set up this process, and those that it starts, for work with tensors; call it before torch is imported."""
    let_waiting_threads_sleep()
    keep_freed_memory()
    # Else the interpreter looks for garbage among a million objects at its end: a tenth of rendering one shot.
    atexit.register(gc.freeze)


def let_waiting_threads_sleep() -> bool:
    """Tell OpenMP, which splits tensor operations among threads, that threads which wait for others soon sleep.

    By default they spin for long, hundreds of times for each step of a model. Where another program takes a core, the
    thread waited for does not run while the others spin, and a command takes 11 to 37 times as long. If they sleep at
    once, waking them takes a quarter of a small model's time; a thousand rounds of GNU's OpenMP, some microseconds,
    cost nothing beside another program and save that. The library reads the settings when it is loaded. Nothing is done
    where the environment already says how threads wait.

    Returns:
        Whether they were set.
    """
    if any(name in os.environ for name in WAITING_VARIABLES):
        return False
    os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"})
    return True


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep freed memory instead of handing it back to the kernel.

    By default glibc maps each large block on its own and unmaps it when freed, so every CPU tensor
    operation pays for fresh, zeroed pages; on a busy machine that costs more than the arithmetic. With no
    mappings, no trimming and 256 MiB of growth at a time, blocks are used again in place. The price is that
    the process keeps its peak memory until it ends. Call it before the first large allocation; it does
    nothing where malloc is not glibc's or where the environment already tunes malloc.

    Returns:
        Whether the settings were taken.
    """
    tuned = any(name in os.environ for name in _VARIABLES) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (absent from other C libraries, whose mallopt may differ)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # -1 becomes the largest size_t: never trim.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Look for no garbage meanwhile, nor ever in what the first import of torch and all around it makes.

    Thousands of modules make a million objects, all of which stay: walking them again and again is a tenth of the time
    that importing them takes, and once more when the next garbage is looked for.
    """
    was_on, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if is_first:
            gc.freeze()
        if was_on:
            gc.enable()


def with_room_for_calls(call: Callable[[], _Result]) -> _Result:
    """Call something, with memory for the frames of all Python functions that are called within.

    CPython maps that memory 16 KiB at a time and unmaps it when the function returns for which it was mapped. A loop
    whose calls happen to begin a piece has one mapped and unmapped at each, which takes a hundred times as long as the
    call: a quarter of the time of a plan, at one depth and not at the next. The frame made here claims more than half a
    mebibyte, and gets a whole one. The rest, which is not touched before it is used, is enough for a thousand calls.
    """

    def roomy() -> _Result:
        return call()

    roomy.__code__ = roomy.__code__.replace(co_stacksize=_FRAME_SLOTS)
    return roomy()
