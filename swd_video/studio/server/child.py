"""A command that runs as a process of its own, and outlives the server where that is killed.

What it says goes into a file, which is locked for as long as the process lives: the lock belongs to the open file, and
the process inherits that. So a server that comes later can tell whether it still runs, and read on.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # on Windows a process is not found again
    fcntl = None  # type: ignore[assignment]

from swd_video.files import whole_file

_READ_BYTES = 2**20


class Child:
    """A running command.

    Attributes:
        pid: its process, which leads a group of its own: a terminal's Ctrl-C is the server's matter.
    """

    def __init__(self, log: Path, pid: int, process: asyncio.subprocess.Process | None = None) -> None:
        """Take hold of a process that another server started; see `start` for a new one.

        While the log is locked the number is that of no other process.
        """
        self.pid = pid
        self._log = log
        self._process = process
        self._read_bytes = 0
        self._rest = b""

    @classmethod
    async def start(cls, arguments: Sequence[str], log: Path) -> "Child":
        """Run `swd-video` with these arguments.

        Raises:
            OSError: if the log cannot be written, or no process can be started.
        """
        with whole_file(log):
            pass  # a link that lies there is replaced, not followed
        with log.open("r+b") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = await _start(arguments, file)
        return cls(log, process.pid, process)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None if self._process else _is_locked(self._log)

    @property
    def exit_code(self) -> int | None:
        """How it ended, below 0 by a signal; None while it runs, and where another server started it."""
        return self._process.returncode if self._process else None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def read(self) -> list[dict[str, Any]]:
        """What it has said since the last call: events, and every other line as `{"event": "said", "text": line}`."""
        lines: list[bytes] = []
        with suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(self._read_bytes)
            while part := file.read(_READ_BYTES):
                self._read_bytes += len(part)
                *whole, self._rest = (self._rest + part).split(b"\n")
                lines += whole
        return [_understood(line) for line in lines if line.strip()]


async def ask(arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a command of `swd-video` prints, which ends by itself and writes nothing.

    Raises:
        ValueError: if it prints none; the message is what it says of the reason.
    """
    process = await _start(arguments, asyncio.subprocess.PIPE)
    try:
        printed, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    try:
        return dict(json.loads(printed))
    except ValueError:
        lines = said.decode("utf-8", "replace").splitlines() or ["ended without a word."]
        raise ValueError(lines[-1].removeprefix("error: ")) from None


async def _start(arguments: Sequence[str], said: int | IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swd_video.cli.main", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        start_new_session=True,
    )


def _understood(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and isinstance(value.get("event"), str):
            return value
    except ValueError:
        pass
    # A bar that is drawn over itself is as its last state.
    return {"event": "said", "text": line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]}


def _is_locked(log: Path) -> bool:
    if fcntl is None:
        return False
    try:
        handle = os.open(log, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
