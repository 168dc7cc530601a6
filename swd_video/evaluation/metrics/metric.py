"""What a metric is: it measures clips, and says of a row's measurements what they are worth beside others'."""

from abc import ABC
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from swd_video.core.interval import Estimate, bootstrap_ratio, bootstrap_ratio_unpaired
from swd_video.evaluation.clip_encoders import FrameFeatures, VideoFeatures, pool_frames
from swd_video.evaluation.difference import Direction
from swd_video.evaluation.judge import AttributeJudge
from swd_video.evaluation.report import Column

FlowMethod = Literal["dis", "farneback"]


@dataclass(frozen=True)
class Networks:
    """The networks and methods that metrics look through.

    Attributes:
        encoder: Describes clips, for distances and diversity.
        frame_encoder: Describes frames, for consistency; may be the same object.
        judge: Reads the attributes of a prompt back, if there is one.
        flow: How motion is measured.
    """

    encoder: VideoFeatures
    frame_encoder: FrameFeatures
    judge: AttributeJudge | None = None
    flow: FlowMethod = "dis"


@dataclass(frozen=True)
class Batch:
    """Some clips, and what networks see in them, computed once for all metrics."""

    frames: UInt8[np.ndarray, "clips frames height width 3"]
    networks: Networks

    @cached_property
    def frame_features(self) -> Float[np.ndarray, "clips frames features"]:
        """Of the frame encoder."""
        return self.networks.frame_encoder.frame_features(self.frames)

    @cached_property
    def features(self) -> Float[np.ndarray, "clips features"]:
        """Of the encoder."""
        shared = self.networks.encoder is self.networks.frame_encoder
        return pool_frames(self.frame_features) if shared else self.networks.encoder(self.frames)


@dataclass(frozen=True)
class Scores:
    """What metrics measured on a row's clips.

    Attributes:
        captions: What each clip was asked to show.
        arrays: By name, with a first axis of clips.
    """

    captions: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]

    @property
    def prompts(self) -> Int[np.ndarray, " clips"]:
        """Number of each clip's prompt, whose samples are not independent."""
        return np.unique(self.captions, return_inverse=True)[1].astype(np.int64)

    def numbers_beside(self, other: "Scores") -> tuple[np.ndarray, np.ndarray]:
        """Numbers of both rows' prompts, the same for the same prompt."""
        numbers = {caption: n for n, caption in enumerate(sorted({*self.captions, *other.captions}))}
        ours, theirs = (np.array([numbers[c] for c in row.captions]) for row in (self, other))
        return ours, theirs

    def taken(self, indices: np.ndarray) -> "Scores":
        """Of some of the clips."""
        captions = tuple(self.captions[index] for index in indices)
        return Scores(captions, {name: values[indices] for name, values in self.arrays.items()})


@dataclass(frozen=True)
class Beside:
    """What a row is held against.

    Attributes:
        baseline: The row whose motion and sharpness count as 1.
        reference: The clips that distances are measured to, real ones mostly; None measures none.
        labels: The classes that the row's captions ask for, by attribute; empty without a judge.
    """

    baseline: Scores
    reference: Scores | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def spread_of(self) -> Scores:
        """Whose diversity counts as 1: the reference's where it has samples of every prompt, else the baseline's."""
        reference = self.reference
        return (
            reference if reference is not None and is_spread_over(reference, self.baseline) else self.baseline
        )


class Metric(ABC):
    """One thing to know of a row's clips. Measurements are kept, so `measure` runs once for each clip.

    Attributes:
        key: Name of its figure.
        title: Head of its column.
        meaning: One or two sentences for somebody who sees it for the first time; {reference}, {distances_to},
            {spread_of}, {encoder} and {frame_encoder} are filled in.
        better: Which way is better; "reference" means near 1, what it is a share of.
        digits: After the point.
        margin: Difference that does not matter, stated before anything is measured; None: rows are not compared by it.
        margin_is_share: Whether the margin counts in the reference row's figure.
    """

    key: str
    title: str
    meaning: str
    better: Direction = "higher"
    digits: int = 2
    margin: float | None = None
    margin_is_share: bool = False

    def measure(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """Measure some clips: arrays with a first axis of clips. Metrics may share one by its name."""
        return {}

    def summarise(self, scores: Scores, beside: Beside) -> Mapping[str, Estimate]:
        """A row's figures, by key; intervals resample prompts. A figure that cannot be told is left out."""
        return {}

    def columns(self, keys: Iterable[str]) -> list[Column]:
        """What tables show of it, where rows have figures of these keys."""
        return [self.column(self.key, self.title, self.meaning)] if self.key in keys else []

    def column(self, key: str, title: str, meaning: str) -> Column:
        """A column with this metric's direction and margin."""
        return Column(
            key,
            title,
            self.digits,
            better=self.better,
            meaning=meaning,
            margin=self.margin,
            margin_is_share=self.margin_is_share,
        )


def share_of_baseline(name: str, scores: Scores, baseline: Scores) -> Estimate:
    """Paired by clip or by prompt where both rows were asked for the same, else of two independent means."""
    ours, theirs = scores.arrays[name], baseline.arrays[name]
    if scores.captions == baseline.captions:
        return bootstrap_ratio(ours, theirs, scores.prompts)
    if set(scores.captions) == set(baseline.captions):
        means = [_mean_by_prompt(row.arrays[name], row.prompts) for row in (scores, baseline)]
        return bootstrap_ratio(*means)
    return bootstrap_ratio_unpaired(ours, theirs, scores.prompts, baseline.prompts)


def is_spread_over(reference: Scores, baseline: Scores) -> bool:
    """Whether the reference has two samples or more of every prompt of the baseline's."""
    counts = Counter(reference.captions)
    return all(counts[caption] > 1 for caption in set(baseline.captions))


def _mean_by_prompt(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    return np.bincount(prompts, weights=values) / np.bincount(prompts)
