"""Programs in processes of their own that need not import torch, diffusers and transformers again.

Importing takes far longer than what tests let such a program do. So one process, the nursery, has imported what most of
them need and nothing else: it holds no tensors and has no threads. Each program starts as a fork of it, with its own
folder, environment, arguments and files for what it writes. Tests whose subject is the start itself, what is imported
or the installed command, start a real one.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from swd_video.environment import collecting_no_garbage

ROOT = Path(__file__).parents[1]
_IMPORTED = (
    "transformers.models.umt5.modeling_umt5",
    "diffusers.pipelines.wan.pipeline_wan",
    "swd_video.cli.render",
    "swd_video.data.encode",
    "swd_video.models.wan",
    "swd_video.student.export",
    "swd_video.training.build",
    "swd_video.training.loop",
)


class Forked:
    """A program that runs, or ran; what it wrote can be read when it has ended."""

    returncode: int | None = None
    stdout: str
    stderr: str

    def __init__(
        self, code: str, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self.pid: int = _asked(
            code=code,
            arguments=arguments,
            folder=str(folder),
            environment={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            files=[str(file) for file in self._files],
        )

    def poll(self) -> int | None:
        """How it ended, as `subprocess` says it, or None while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        """How it ended, once it did."""
        code = self._ended(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            self.returncode = _asked(pid=self.pid, options=options)
            if self.returncode is not None:
                self.stdout, self.stderr = (file.read_text(encoding="utf-8") for file in self._files)
                self._folder.cleanup()
        return self.returncode


def start_forked(code: str, *arguments: object, folder: Path = ROOT, **environment: str) -> Forked:
    """Start a program, given as to `python -c`.

    Args:
        code: The program.
        arguments: What it finds in `sys.argv[1:]`.
        folder: Where it runs.
        environment: Variables beside those of this process; what is read when torch, huggingface_hub or the C library
            come in is not read again. All programs run without a network, and with one thread unless they ask for more.
    """
    return Forked(code, tuple(map(str, arguments)), folder, environment)


def run_forked(
    code: str, *arguments: object, folder: Path = ROOT, within_s: float = 120, **environment: str
) -> Forked:
    """The same, until it has ended; one that takes longer than it may is killed."""
    program = start_forked(code, *arguments, folder=folder, **environment)
    until = time.monotonic() + within_s
    while program.poll() is None:
        if time.monotonic() > until:
            program.kill()
            raise TimeoutError(f"the program still ran after {within_s} s: {code[:200]}")
        time.sleep(0.01)
    return program


@cache
def _nursery() -> "subprocess.Popen[str]":
    """Started when first asked for; it ends when its input does, with this process at the latest."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    nursery = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(nursery.communicate)
    return nursery


def _asked(**order: Any) -> Any:
    nursery = _nursery()
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(json.dumps(order) + "\n")
    nursery.stdin.flush()
    return json.loads(nursery.stdout.readline())


def _next_program() -> dict[str, Any] | None:
    """Answer in the nursery; the program to run in a process forked for it, None in the nursery at its end."""
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], order["options"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return order
        print(json.dumps(answer), flush=True)
    return None


def _become(
    code: str, arguments: list[str], folder: str, environment: dict[str, str], files: list[str]
) -> None:
    for number, path in enumerate([os.devnull, *files]):
        file = os.open(path, os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = ["-c", *arguments]
    sys.path[0] = ""
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), program.__dict__)


if __name__ == "__main__":
    with collecting_no_garbage():
        for name in _IMPORTED:
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has no other threads than the one that forks"
    if program := _next_program():
        _become(**program)
