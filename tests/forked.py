"""Programs in processes of their own that need not import torch, diffusers and transformers again.

Importing takes far longer than what tests let such a program do. So one process, the nursery, imports what most of them
need and nothing else when it is first asked for a program: it holds no tensors and has no threads. Each program starts
as a fork of it, with its own folder, environment, arguments and files for what it writes. All processes that share the
tests of a run ask the same one. Tests whose subject is the start itself, what is imported or the installed command,
start a real one.
"""

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ADDRESS = "SWD_VIDEO_NURSERY"
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
        self._code = code
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
        if self.returncode is None:
            self.returncode = _asked(pid=self.pid)
            if self.returncode is not None:
                self.stdout, self.stderr = (file.read_text(encoding="utf-8") for file in self._files)
                self._folder.cleanup()
        return self.returncode

    def wait(self, within_s: float = 120) -> int:
        """How it ended, once it did; one that takes longer than it may is killed."""
        until = time.monotonic() + within_s
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"the program still ran after {within_s} s: {self._code[:200]}")
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


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
    """The same, until it has ended."""
    program = start_forked(code, *arguments, folder=folder, **environment)
    program.wait(within_s)
    return program


def open_nursery() -> None:
    """Let this process and those that it starts fork programs; the nursery ends with this process at the latest."""
    os.environ[_ADDRESS] = f"swd-video-tests-{uuid.uuid4()}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    nursery = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert nursery.stdout is not None
    nursery.stdout.readline()  # it listens
    atexit.register(nursery.communicate)


def _asked(**order: Any) -> Any:
    with socket.socket(socket.AF_UNIX) as nursery:
        nursery.connect(_address())
        with nursery.makefile("rw") as words:
            words.write(json.dumps(order) + "\n")
            words.flush()
            return json.loads(words.readline())


def _address() -> str:
    """A name that is no file and goes with the process that listens to it."""
    return f"\0{os.environ[_ADDRESS]}"


def _next_program() -> dict[str, Any] | None:
    """Answer in the nursery; the program to run in a process forked for it, None in the nursery at its end."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(_address())
        door.listen()
        print("open", flush=True)
        # Input ends with the process that opened the nursery.
        while door in select.select([door, sys.stdin], [], [])[0]:
            asking, _ = door.accept()
            with asking, asking.makefile("rw") as words:
                order = json.loads(words.readline())
                if "pid" in order:
                    pid, status = os.waitpid(order["pid"], os.WNOHANG)
                    answer = os.waitstatus_to_exitcode(status) if pid else None
                else:
                    _import()
                    answer = os.fork()
                    if not answer:
                        return order
                words.write(json.dumps(answer) + "\n")
    return None


@cache
def _import() -> None:
    from swd_video.environment import collecting_no_garbage

    with collecting_no_garbage():
        for name in _IMPORTED:
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has no other threads than the one that forks"


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


if __name__ == "__main__" and (program := _next_program()):
    _become(**program)
