"""What is shown of a run while it works, and how Ctrl-C ends it: once after the clip in hand, twice at once."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Any

from tqdm import tqdm

from swd_video.studio.progress import Event, Watch

_LOG_SECONDS = 10.0
"""Between two lines of a log at the beginning of a run."""

_LOG_SHARE = 0.05
"""Later it is this share of the time that the run has taken, so that a long run has few lines more than a short one."""

_LOG_MOST_SECONDS = 300.0


@contextmanager
def following(*, as_json: bool = False) -> Iterator[tuple[Watch, Callable[[], bool]]]:
    """Show the events of a run on stderr, and let Ctrl-C (SIGINT) end it softly.

    From the "plan" of a run until its last clip is done, the first SIGINT lets it finish the clip in hand and the
    second one ends it at once; before and after, the first one does.

    Args:
        as_json: An object a line, for programs. Else a bar on a terminal, and lines at fair intervals in a log.
            Programs end a run by SIGINT, which is then taken even where it is ignored, as it is in what a shell starts
            with `&`.

    Yields:
        Who looks on, and a call that tells whether the run is to end before the next clip.
    """
    show: Watch = _print_json if as_json else _Bar() if sys.stderr.isatty() else _Log()
    latest = Event("note", "")

    def watch(event: Event) -> None:
        nonlocal latest
        latest = event
        interrupts.soft = event.done < event.total and (interrupts.soft or event.event == "plan")
        show(event)

    interrupts = _Interrupts(lambda: show(replace(_about(latest), text=_STOPPING)))
    try:
        with interrupts.taken(always=as_json):
            yield watch, lambda: interrupts.asked
    except BaseException as error:
        if latest.event != "done":
            stopped = isinstance(error, KeyboardInterrupt)
            text = "interrupted" if stopped else " ".join(str(error).split())
            status, why = ("interrupted", None) if stopped else ("failed", text)
            show(replace(_about(latest), event="done", text=text, status=status, error=why))
        raise


def _about(event: Event) -> Event:
    """How far the run was at an event, with nothing of a clip."""
    return Event("note", "", done=event.done, total=event.total, fraction=event.fraction)


_STOPPING = "interrupted: the clip in hand is finished first. Once more stops at once."


class _Interrupts:
    """What SIGINT does: the first one asks, where that is soft, and every other one raises KeyboardInterrupt."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.asked = self.soft = False
        self._tell = tell

    @contextmanager
    def taken(self, *, always: bool) -> Iterator[None]:
        before: Any = signal.getsignal(signal.SIGINT)
        # Whoever set another handler has other wishes. Only the main thread gets signals.
        ours = before is signal.default_int_handler or (always and before == signal.SIG_IGN)
        with suppress(ValueError):
            if ours:
                signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            with suppress(ValueError):
                if ours:
                    signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.soft:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(RuntimeError):  # the signal came in the middle of another line
            self._tell()


def _print_json(event: Event) -> None:
    _write(json.dumps(event.as_dict()))


class _Log:
    """Lines for people where nothing can be drawn over."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._due = 0.0

    def __call__(self, event: Event) -> None:
        if event.event == "done":
            return  # the command says what became of the run
        now = time.monotonic()
        often = event.event in ("stage", "clip") and event.status != "failed" and event.done < event.total
        if often and now < self._due:
            return
        if often:
            pause = max(_LOG_SECONDS, _LOG_SHARE * (now - self._begun))
            self._due = now + min(_LOG_MOST_SECONDS, pause)
        _write(_line(event))


class _Bar:
    """One bar for all clips, below the lines of those that are made."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __call__(self, event: Event) -> None:
        if event.event in ("note", "warning") or (event.event == "clip" and event.status != "skipped"):
            text = f"warning: {event.text}" if event.event == "warning" else event.text
            tqdm.write(text, file=sys.stderr)
        if event.event == "plan":
            shape = "{percentage:3.0f}% |{bar:24}| {desc}"
            self._bar = tqdm(total=1.0, bar_format=shape, leave=False, file=sys.stderr, dynamic_ncols=True)
        if event.event in ("plan", "stage", "clip") and self._bar is not None:
            where = f", {event.text}" if event.event == "stage" else ""
            self._bar.n = event.fraction
            self._bar.set_description_str(f"{event.done} of {event.total} clips{where}{_time_left(event)}")
        if event.event == "done" and self._bar is not None:
            self._bar.close()


def _line(event: Event) -> str:
    if event.event == "warning":
        return f"warning: {event.text}"
    if event.event == "stage":
        return f"[{event.done + 1}/{event.total}] {event.text}{_time_left(event)}"
    return event.text + (_time_left(event) if event.event == "clip" and event.done < event.total else "")


def _time_left(event: Event) -> str:
    if event.seconds_left is None or event.done == event.total:
        return ""
    return f", {tqdm.format_interval(event.seconds_left)} left"


def _write(line: str) -> None:
    """Print to stderr; whoever read it may have gone, and the run goes on without."""
    try:
        print(f"{line}\n", end="", file=sys.stderr, flush=True)
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
