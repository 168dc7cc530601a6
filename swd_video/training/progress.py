"""How far a run is: seconds a stage costs, the time left, and smoothed losses."""

from collections import deque
from collections.abc import Callable, Sequence
from statistics import fmean

_WINDOW = 30


class TimeLeft:
    """Estimates the rest of a run from what each stage has cost lately.

    Stages differ in cost by ten times and more, so the mean step says little early on. Which stage every coming
    part of a batch trains is known beforehand, so each is counted at its own price. A stage not met yet is
    priced by its tokens.
    """

    def __init__(
        self, stage_of: Callable[[int, int], int], steps: int, num_parts: int, tokens: Sequence[int]
    ):
        """Plan a run: the stage of each part of each step, and the tokens of a clip at each stage."""
        self._tokens = list(tokens)
        self._plan = [[stage_of(step, part) for part in range(num_parts)] for step in range(steps)]
        self._counts_after = _counts_after(self._plan, len(tokens))
        self._stage_seconds: list[deque[float]] = [deque(maxlen=_WINDOW) for _ in tokens]
        self._other_seconds: deque[float] = deque(maxlen=_WINDOW)
        self._pause_seconds: deque[float] = deque(maxlen=5)

    def add_step(self, stages: Sequence[tuple[int, float, float]], seconds: float) -> None:
        """Note what a step cost: its parts (stage, loss, seconds) and the whole of it."""
        for index, _, spent in stages:
            self._stage_seconds[index].append(spent)
        self._other_seconds.append(seconds - sum(spent for _, _, spent in stages))

    def add_pause(self, seconds: float) -> None:
        """Note what one round of sample clips cost."""
        self._pause_seconds.append(seconds)

    def seconds_left(self, steps_done: int, pauses_left: int = 0) -> float | None:
        """Seconds until the last step ends; None before the first step."""
        known = {i: fmean(spent) for i, spent in enumerate(self._stage_seconds) if spent}
        if not known:
            return None
        per_token = sum(known.values()) / sum(self._tokens[i] for i in known)
        counts = self._counts_after[steps_done]
        stages = sum(n * known.get(i, per_token * self._tokens[i]) for i, n in enumerate(counts))
        other = fmean(self._other_seconds) * (len(self._plan) - steps_done)
        pauses = pauses_left * fmean(self._pause_seconds) if self._pause_seconds else 0.0
        return stages + other + pauses


class SmoothLoss:
    """Running mean of each stage's loss; survives a restart through `state`."""

    _KEEP = 0.95

    def __init__(self, num_stages: int) -> None:
        self.state: list[float | None] = [None] * num_stages

    def add(self, stage_index: int, loss: float) -> None:
        """Mix in a new value; the first one is taken as it is."""
        old = self.state[stage_index]
        self.state[stage_index] = loss if old is None else self._KEEP * old + (1 - self._KEEP) * loss

    @property
    def mean(self) -> float | None:
        """Mean over the stages met so far."""
        known = [value for value in self.state if value is not None]
        return fmean(known) if known else None


def format_seconds(seconds: float) -> str:
    """Seconds for people: "42 s", "7 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _counts_after(plan: Sequence[Sequence[int]], num_stages: int) -> list[list[int]]:
    counts = [0] * num_stages
    backwards = [list(counts)]
    for stages in reversed(plan):
        for index in stages:
            counts[index] += 1
        backwards.append(list(counts))
    return backwards[::-1]
