"""Settings of the process do what they are for: waiting threads sleep, freed memory is not faulted in again."""

import os
import platform
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from swd_video.environment import WAITING_VARIABLES, let_waiting_threads_sleep, with_room_for_calls

PROGRAM = """
import resource, sys
import numpy as np
from swd_video.environment import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def work():
    for _ in range(10):
        np.ones(40 * 2**20, dtype=np.uint8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(mode: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_large_blocks_are_faulted_in_once() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert "AssertionError" in run("kept").stderr, "there is nothing to set"
        return
    default, kept = (int(run(mode).stdout) for mode in ("default", "kept"))
    # glibc maps blocks above 32 MiB one by one: 10 times 10,240 pages, or 20 huge ones.
    assert default >= 200
    assert kept <= default / 10


def test_settings_of_the_environment_are_left_alone() -> None:
    assert "AssertionError" in run("kept", MALLOC_TOP_PAD_="65536").stderr
    assert "AssertionError" in run("kept", GLIBC_TUNABLES="glibc.malloc.top_pad=65536").stderr


def test_a_command_sets_how_threads_wait_before_torch_reads_it() -> None:
    code = (
        "import sys\nfrom swd_video.cli.main import main\n"
        "try: main(['plan', '--help'])\nexcept SystemExit: import torch"
    )
    environment = {name: value for name, value in os.environ.items() if name not in WAITING_VARIABLES}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert re.search(r"OMP_WAIT_POLICY ?= ?'PASSIVE'", shown.stderr)
    assert "GOMP_" not in shown.stderr or re.search(r"GOMP_SPINCOUNT ?= ?'1000'", shown.stderr)


def test_how_threads_wait_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000"), ("KMP_BLOCKTIME", "1")):
        monkeypatch.setattr(os, "environ", {name: value})
        assert not let_waiting_threads_sleep()
        assert os.environ == {name: value}


def test_a_process_looks_for_no_garbage_at_its_end() -> None:
    code = (
        "import atexit, gc\nfrom swd_video.environment import prepare_process\n"
        "atexit.register(lambda: print(gc.get_freeze_count()))\nprepare_process()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ended.stdout) > 1000


def test_what_the_first_import_of_torch_makes_is_never_looked_through() -> None:
    code = (
        "import gc\nfrom swd_video.environment import collecting_no_garbage\n"
        "with collecting_no_garbage(): import torch\n"
        "first = gc.get_freeze_count()\n"
        "with collecting_no_garbage(): more = [[] for _ in range(1000)]\n"
        "print(first, gc.get_freeze_count() - first, gc.isenabled())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, later, is_on = ended.stdout.split()
    assert int(first) > 10_000 and int(later) == 0 and is_on == "True"


def test_no_call_is_slow_for_its_depth() -> None:
    """Where memory for frames ends, every call costs a page or more; in a new thread there is no room from before."""

    def pages(depth: int) -> int:
        if depth:
            return pages(depth - 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(1000):
            _nothing()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def worst() -> int:
        return max(pages(depth) for depth in range(300))

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(with_room_for_calls, worst).result() < 500
    if platform.python_implementation() == "CPython" and sys.version_info < (3, 12):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(worst).result() >= 1000, "the interpreter gives room itself"


def _nothing() -> None:
    pass
