"""What a metric is: one object that measures clips, sums the measurements up, and says what the figure means."""

from abc import ABC
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from swd_video.core.interval import Estimate, bootstrap_mean, bootstrap_ratio, bootstrap_ratio_unpaired
from swd_video.evaluation.difference import Direction
from swd_video.evaluation.judges import Batch, Judges


@dataclass(frozen=True)
class Scores:
    """What the metrics measured on each clip of a row.

    Attributes:
        captions: What each clip was asked to show.
        arrays: By name; each has a first axis of clips.
    """

    captions: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def prompts(self) -> Int[np.ndarray, " clips"]:
        """Number of each clip's prompt, whose samples are not independent."""
        return np.unique(self.captions, return_inverse=True)[1].astype(np.int64)

    def take(self, indices: np.ndarray) -> "Scores":
        """Those of some clips."""
        captions = tuple(self.captions[index] for index in indices)
        return Scores(captions, {name: values[indices] for name, values in self.arrays.items()})


@dataclass(frozen=True)
class Beside:
    """Other rows that a row is held against.

    Attributes:
        baseline: The row whose motion and sharpness count as 1.
        reference: The clips that distances are measured to, real ones mostly; None measures none.
    """

    baseline: Scores
    reference: Scores | None = None

    @property
    def spread_of(self) -> Scores:
        """Whose diversity counts as 1: the reference's where it has two samples of each prompt, else the baseline's."""
        if self.reference is None:
            return self.baseline
        counts = Counter(self.reference.captions)
        several = all(counts[caption] > 1 for caption in set(self.baseline.captions))
        return self.reference if several else self.baseline

    def share(self, name: str, scores: Scores) -> Estimate:
        """A measurement as a share of the baseline's.

        Paired by clip or by prompt where both rows were asked for the same, else of two independent means.
        """
        ours, theirs, baseline = scores[name], self.baseline[name], self.baseline
        if scores.captions == baseline.captions:
            return bootstrap_ratio(ours, theirs, scores.prompts)
        if set(scores.captions) == set(baseline.captions):
            means = [_mean_by_prompt(ours, scores.prompts), _mean_by_prompt(theirs, baseline.prompts)]
            return bootstrap_ratio(*means)
        return bootstrap_ratio_unpaired(ours, theirs, scores.prompts, baseline.prompts)


class Metric(ABC):
    """A metric. One from outside of the package derives from this class, and its constructor takes nothing.

    Attributes:
        key: Of its figure in evaluation.json, and of its margin.
        title: What tables and the page call it.
        meaning: One or two sentences for somebody who sees it for the first time. `{reference}`, `{distances_to}`,
            `{spread_of}`, `{encoder}` and `{frame_encoder}` stand for what they are in this evaluation.
        better: Which way is better; "reference" means near 1, what it is a share of.
        digits: Digits after the point.
        margin: A difference that does not matter; None does not compare rows by it.
        margin_is_share: Whether the margin is a share of the figure of the row that another is held against.
        margin_key: Its key in `margins`, where several metrics share it.
        has_floor: Whether it is also found of two halves of the reference clips: what no fault at all would have.
        network: Folder or hub name of a network of its own; students that it trained are refused.
        version: Counted up when it measures otherwise, so that stored measurements are not read back.
    """

    key: str
    title: str
    meaning: str = ""
    better: Direction = "higher"
    digits: int = 2
    margin: float | None = None
    margin_is_share: ClassVar[bool] = False
    margin_key: str = ""
    has_floor: ClassVar[bool] = False
    network: str | None = None
    version: ClassVar[int] = 1

    @property
    def heading(self) -> str:
        """The title with an arrow that says which way is better."""
        return f"{self.title} {({'higher': '↑', 'lower': '↓', 'reference': '→ 1'})[self.better]}"

    def check(self, captions: Sequence[str]) -> None:  # noqa: B027
        """Refuse captions that it cannot judge by, before clips are made.

        Raises:
            ValueError: Naming the caption.
        """

    def is_told_by(self, judges: Judges) -> bool:
        """Whether these judges can tell it at all; where they cannot it gives no figure."""
        return True

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Measure a few clips: arrays by name, each with a first axis of clips; they are stored and given back."""
        return {}

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """The figures of a row, intervals resampled by prompt; the one under its name goes to tables and page."""
        return {}


class MeanOfClips(Metric):
    """A metric whose figure is the mean over clips of what it measures under its own name."""

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """The mean."""
        return {self.key: bootstrap_mean(scores[self.key], scores.prompts)}


class ShareOfBaseline(Metric):
    """A metric whose figure is what it measures under its own name, in the mean, as a share of the baseline's."""

    better = "reference"
    margin = 0.05

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """The share, where something was measured."""
        return {self.key: beside.share(self.key, scores)} if self.key in scores.arrays else {}


def caption_numbers(*rows: Scores) -> dict[str, int]:
    """A number for each caption of these rows, in the captions' order whatever the rows."""
    return {caption: n for n, caption in enumerate(sorted({c for row in rows for c in row.captions}))}


def _mean_by_prompt(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    return np.bincount(prompts, weights=values) / np.bincount(prompts)
