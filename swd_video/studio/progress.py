"""What a run tells while it works: how far it is, what each clip became, and how long the rest will take."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from swd_video.studio.script import Take

Kind = Literal["note", "warning", "plan", "stage", "clip", "done"]

_WINDOW = 30
"""How many of the last times of a step its price is taken from."""

_REPORT_SECONDS = 10.0
"""Between two times that a run writes its report, whose length grows with the shots: for many it is rarer."""


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        event: "plan" comes once, before the first clip; then "stage" and "clip"; "done" is the last. "note" and
            "warning" are lines at any time.
        text: The same as a line for people.
        shot: Id of the shot that it is about; None for the run as a whole.
        take: Number of the take, from 1.
        stage: Which stage is done, from 1.
        stages: Of how many.
        done: Clips that need nothing more.
        total: Clips of the run.
        fraction: Share of the time that is over, in [0, 1]; it never falls.
        seconds_left: Until the run ends; None where nothing was measured yet.
        preview: File that shows the stage, in the folder of the clips.
        status: What became of the clip, or of the run.
        error: Why it failed, in one line.
    """

    event: Kind
    text: str
    shot: str | None = None
    take: int | None = None
    stage: int | None = None
    stages: int | None = None
    done: int = 0
    total: int = 0
    fraction: float = 0.0
    seconds_left: float | None = None
    preview: str | None = None
    status: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, seconds and shares rounded."""
        values = asdict(self)
        values["fraction"] = round(self.fraction, 4)
        values["seconds_left"] = None if self.seconds_left is None else round(self.seconds_left, 1)
        return values


Watch: TypeAlias = Callable[[Event], None]
"""Whoever looks on: takes every event of a run."""


def as_lines(say: Callable[[str], None]) -> Watch:
    """Who looks on through lines: notes, warnings and one line for each clip."""

    def watch(event: Event) -> None:
        if event.event in ("note", "warning", "clip"):
            say(f"warning: {event.text}" if event.event == "warning" else event.text)

    return watch


class Progress:
    """Counts what a run has done and has left, and tells those who look on.

    A clip is made in steps: its stages, and finishing (decoding and writing). Clips differ in length and steps in cost,
    so every step has a size, and a step's price by size is what it has cost lately in this run. A step that was not
    met yet has the price of the others.

    Clips may go through a stage together: each is told of, one after another.
    """

    def __init__(self, *watchers: Watch, now: Callable[[], float] = time.perf_counter) -> None:
        self._watchers, self._now = watchers, now
        self._steps: dict[str, dict[int, int]] = {}
        self._left: Counter[int] = Counter()
        self._prices: dict[int, deque[tuple[float, int]]] = {}
        self._done = self._total = 0
        self._fraction = 0.0
        self._begun = self._since = now()

    def note(self, text: str) -> None:
        """Tell a line that is about no clip."""
        self._tell(Event("note", text))

    def warning(self, text: str) -> None:
        """Tell a line that asks for attention."""
        self._tell(Event("warning", text))

    def plan(self, total: int, steps: Mapping[str, Sequence[int]], text: str) -> None:
        """Say what is to be done.

        `steps` are, for the name of each clip that is to be made, the sizes of its stages and, last, of finishing, in
        any one unit, for example pixels. Of the `total` some may be finished already.
        """
        self._total = total
        self._steps = {name: dict(enumerate(sizes)) for name, sizes in steps.items()}
        self._left = Counter()
        for sizes in self._steps.values():
            self._left.update(sizes)
        self._begun = self._since = self._now()
        self._tell(Event("plan", text))

    def begin(self) -> None:
        """Say that a clip, or several, are begun: the time before belongs to none of them."""
        self._since = self._now()

    def stage(self, take: Take, index: int, stages: int, preview: str | None = None) -> None:
        """Say that a stage of a clip is done; `index` from 0, of `stages`."""
        for earlier in [step for step in self._steps.get(take.name, {}) if step < index]:
            self._left[earlier] -= self._steps[take.name].pop(earlier)  # an earlier run has made it
        self._pay(take.name, index)
        text = f"{take.name}: stage {index + 1} of {stages}"
        self._tell(Event("stage", text, take.shot.id, take.take, index + 1, stages, preview=preview))

    def clip(self, take: Take, status: str, text: str, error: str = "") -> None:
        """Say what became of a clip; how many there are by now stands before the text."""
        steps = self._steps.get(take.name, {})
        if steps and status != "failed" and status != "skipped":
            self._pay(take.name, max(steps))
        for index, size in self._steps.pop(take.name, {}).items():
            self._left[index] -= size
        self._since = self._now()
        self._done += 1
        text = f"[{self._done}/{self._total}] {text}"
        self._tell(Event("clip", text, take.shot.id, take.take, status=status, error=error or None))

    def done(self, status: str, text: str) -> None:
        """Say that the run is over: "done" or "failed"."""
        self._tell(Event("done", text, status=status))

    def seconds_left(self) -> float | None:
        """Until all clips are made; None where nothing was measured yet."""
        known = {
            index: sum(t for t, _ in paid) / sum(s for _, s in paid) for index, paid in self._prices.items()
        }
        left = {index: size for index, size in self._left.items() if size > 0}
        if not left:
            return 0.0 if self._total else None
        if not known:
            return None
        other = sum(known.values()) / len(known)
        return sum(size * known.get(index, other) for index, size in left.items())

    def _pay(self, name: str, index: int) -> None:
        now = self._now()
        size = self._steps.get(name, {}).pop(index, 0)
        if size > 0:
            self._left[index] -= size
            self._prices.setdefault(index, deque(maxlen=_WINDOW)).append((now - self._since, size))
        self._since = now

    def _tell(self, event: Event) -> None:
        left, over = self.seconds_left(), self._now() - self._begun
        if left is not None and over + left > 0:
            self._fraction = max(self._fraction, over / (over + left))
        event = replace(event, done=self._done, total=self._total, fraction=self._fraction, seconds_left=left)
        for watch in self._watchers:
            watch(event)


@contextmanager
def reporting(write: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Gives a call that writes a run's report where it is due; a run that stops with an error writes it as well."""
    due = 0.0

    def write_if_due() -> None:
        nonlocal due
        if (now := time.perf_counter()) >= due:
            write()
            due = now + max(_REPORT_SECONDS, 20 * (time.perf_counter() - now))

    try:
        yield write_if_due
    except BaseException:
        with suppress(OSError):  # what stopped the run says more
            write()
        raise
