"""The allocator settings do what they are for: freed memory is not faulted in again."""

import os
import platform
import subprocess
import sys

PROGRAM = """
import resource, sys
import numpy as np
from swd_video.cli.allocator import keep_freed_memory
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
