"""Entry point of `swd-video`: picks the command, and turns errors into one line and an exit code."""

import importlib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import swd_video
from swd_video.cli.commands import COMMANDS, EXTRAS
from swd_video.environment import prepare_process, with_room_for_calls
from swd_video.plain_text import did_you_mean, sentence

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT = 0, 1, 2
EXIT_SIGNAL = 128
"""Plus the number of the signal that ended the command."""

TRACEBACK_VARIABLE = "SWD_VIDEO_TRACEBACK"
"""Set to 1 to see where a one-line error was raised."""

_FEWEST_COLUMNS = 40
"""In fewer, help never ends."""

_MACHINE = re.compile(
    r"OutOfMemoryError|AcceleratorError|CUDA|cuDNN|CUBLAS|NCCL|HIP error|MPS backend|DefaultCPUAllocator"
)


def usage() -> str:
    """Return the text of `swd-video --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: swd-video [--version] [--help] COMMAND ...\n\n"
        "Distil video diffusion models into few stages, growing in space and time, and render with them.\n\n"
        f"commands:\n{rows}\n\n"
        "`swd-video COMMAND --help` lists a command's options. With --json a command prints one JSON\n"
        "object on stdout; mistakes are lines on stderr, and stdout is empty where nothing was made.\n"
        "Exit codes: 0 done, 1 failed, 2 wrong input.\n"
        f"{TRACEBACK_VARIABLE}=1 in the environment shows where an error came from."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the process, and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return EXIT_DONE if arguments else EXIT_WRONG_INPUT
    if arguments[0] in ("-V", "--version"):
        print(f"swd-video {swd_video.__version__}")
        return EXIT_DONE
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        cure = did_you_mean(name, COMMANDS, f"The commands are {', '.join(COMMANDS)}.")
        return _report(f"no command {name!r}. {cure}", EXIT_WRONG_INPUT)
    return with_room_for_calls(lambda: _run(name, rest))


class _Terminated(KeyboardInterrupt):
    """A signal to end, which then takes the same way out as Ctrl-C; its argument is the signal's number."""


@contextmanager
def _signals_clean_up() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (a terminal that is closed) unwind the command instead of cutting it off."""
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked off
            os._exit(EXIT_SIGNAL + number)
        raise _Terminated(number)

    names = ("SIGTERM", "SIGHUP")  # the second is not on Windows
    numbers = [number for name in names if (number := getattr(signal, name, None))]
    taken = []
    try:
        for number in numbers:
            if signal.getsignal(number) == signal.SIG_DFL:  # else somebody has other wishes, `nohup` for one
                signal.signal(number, end)
                taken.append(number)
    except ValueError:
        pass  # not in the main thread, which alone gets signals
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _run(command: str, arguments: list[str]) -> int:
    prepare_process()
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # a name that the terminal cannot show must not undo hours of work
        sys.stdout.reconfigure(errors="backslashreplace")
    # Where its kernels do not load it says so at each import; `doctor` tells what does not run.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and 0 < int(columns) < _FEWEST_COLUMNS:
        os.environ["COLUMNS"] = str(_FEWEST_COLUMNS)
    debug = os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0")
    try:
        with _signals_clean_up():
            return int(importlib.import_module(f"swd_video.cli.{command}").run(arguments))
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if isinstance(interrupt, _Terminated) else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        return _report(f"{what}. Run the same command again to go on.", EXIT_SIGNAL + number)
    except ModuleNotFoundError as error:
        if debug or (error.name or "").startswith("swd_video"):
            raise
        cure = f"Install what this command needs: pip install 'swd-video[{EXTRAS.get(command, 'train')}]'."
        return _report(f"{sentence(str(error))} {cure}", EXIT_FAILED)
    except ValueError as error:
        if debug:
            raise
        return _report(str(error) or repr(error), EXIT_WRONG_INPUT)
    except OSError as error:
        if debug:
            raise
        return _report(_describe_system(error), EXIT_FAILED)
    except (RuntimeError, MemoryError) as error:
        if debug or not _is_the_machines(error):
            raise
        return _report(_describe_machine(error), EXIT_FAILED)


def _describe_system(error: OSError) -> str:
    """Without its number, and of two files the one that was to be made."""
    name = error.filename2 or error.filename
    return f"{name}: {sentence(error.strerror)}" if name and error.strerror else str(error)


def _is_the_machines(error: BaseException) -> bool:
    """Whether memory or a device failed, and not the program; torch has no class of errors for that."""
    return isinstance(error, MemoryError) or bool(_MACHINE.search(f"{type(error).__name__}: {error}"))


def _describe_machine(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(".") or "out of memory"
    memory = isinstance(error, MemoryError) or "memory" in line
    cure = "Take smaller batches, or see docs/adapters.md, Fitting a model into memory. " if memory else ""
    return f"{line}. {cure}Run the same command again to go on."


def _report(message: str, exit_code: int) -> int:
    for line in message.split("\n"):
        print(f"error: {line}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
