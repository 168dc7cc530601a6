"""Adherence: the share of clips in which a judge reads what their prompt asked for."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from swd_video.core.interval import Estimate, bootstrap_share
from swd_video.evaluation.metrics.metric import Batch, Beside, Metric, Scores
from swd_video.evaluation.report import Column

_READ = "read_"


class Adherence(Metric):
    """A figure for each attribute that the judge knows."""

    key = "adherence"
    title = "{} right"
    meaning = "Share of clips in which a judge, trained on real clips alone, reads the {} that the prompt asked for."
    margin = 0.05

    def measure(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """The classes that the judge reads, by attribute."""
        judge = batch.networks.judge
        return (
            {}
            if judge is None
            else {f"{_READ}{name}": read for name, read in judge.predict(batch.frames).items()}
        )

    def summarise(self, scores: Scores, beside: Beside) -> Mapping[str, Estimate]:
        """A share for each attribute that the captions name."""
        labels = dict(beside.labels)
        read = {name: scores.arrays[f"{_READ}{name}"] for name in labels}
        return {
            f"{self.key}_{name}": share for name, share in adherence(read, labels, scores.prompts).items()
        }

    def columns(self, keys: Iterable[str]) -> list[Column]:
        """A column for each attribute."""
        names = sorted(key.removeprefix(f"{self.key}_") for key in keys if key.startswith(f"{self.key}_"))
        return [self.column(f"{self.key}_{n}", self.title.format(n), self.meaning.format(n)) for n in names]


def adherence(
    predictions: Mapping[str, Int[np.ndarray, " clips"]],
    labels: Mapping[str, Int[np.ndarray, " labels"]],
    prompts: Int[np.ndarray, " prompts"] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Share of clips in which the judge reads what the prompt asked for, by attribute.

    Args:
        predictions: The judge's classes, by attribute.
        labels: The classes the prompts asked for, by attribute.
        prompts: Number of each clip's prompt: intervals resample prompts, not clips.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If the attributes or the numbers of clips differ.
    """
    if predictions.keys() != labels.keys():
        raise ValueError(f"adherence: predictions of {sorted(predictions)} but labels of {sorted(labels)}.")
    shares = {}
    for name, predicted in predictions.items():
        if len(predicted) != len(labels[name]):
            raise ValueError(
                f"adherence: {len(predicted)} predictions but {len(labels[name])} labels of {name!r}."
            )
        hits = (np.asarray(predicted) == np.asarray(labels[name])).astype(np.int64)
        shares[name] = bootstrap_share(hits, prompts, seed=seed)
    return shares


def labels_from_captions(
    classes: Mapping[str, Sequence[str]], captions: Sequence[str]
) -> dict[str, Int[np.ndarray, " captions"]]:
    """The classes that captions name, in the judge's own words; of names inside each other the longest counts.

    Raises:
        ValueError: If a caption names no class of an attribute, or two.
    """
    return {
        attribute: np.array([_class_in(caption, attribute, names) for caption in captions], dtype=np.int64)
        for attribute, names in classes.items()
    }


def _class_in(caption: str, attribute: str, names: Sequence[str]) -> int:
    found = [name for name in names if re.search(rf"\b{re.escape(name)}\b", caption, flags=re.IGNORECASE)]
    widest = [name for name in found if not any(name != other and name in other for other in found)]
    if len(widest) != 1:
        what = "names no" if not widest else f"names both {widest[0]!r} and {widest[1]!r} as"
        raise ValueError(
            f"metrics.judge: prompt {caption!r} {what} {attribute} that the judge knows ({', '.join(names[:4])}, "
            "...); give prompts in its words, or leave the judge out."
        )
    return list(names).index(widest[0])
