"""Adherence: whether a judge reads the attributes of the prompt back from the clips."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from swd_video.core.interval import Estimate, bootstrap_share
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import Beside, Metric, Scores


class Adherence(Metric):
    """Share of clips in which the judge reads what the prompt asked for, of one attribute."""

    margin = 0.05
    margin_key = "adherence"

    def __init__(self, attribute: str, classes: Sequence[str]) -> None:
        """Of one of the judge's attributes."""
        self.attribute = attribute
        self.classes = tuple(classes)
        self.key = f"adherence_{attribute}"
        self.title = f"{attribute} right"
        self.meaning = (
            f"Share of clips in which a judge, trained on real clips alone, reads the {attribute} that the prompt "
            "asked for."
        )

    def check(self, captions: Sequence[str]) -> None:
        """Refuse captions that name no class of the attribute, or two.

        Raises:
            ValueError: Naming the caption.
        """
        self.classes_of(captions)

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """The class that the judge reads."""
        return {f"read_{self.attribute}": batch.read[self.attribute]}

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """The share that was read right."""
        hits = scores[f"read_{self.attribute}"] == self.classes_of(scores.captions)
        return {self.key: bootstrap_share(hits.astype(np.int64), scores.prompts)}

    def classes_of(self, captions: Sequence[str]) -> Int[np.ndarray, " captions"]:
        """The classes that captions name, in the judge's own words; of names inside each other the longest counts.

        Raises:
            ValueError: If a caption names no class, or two.
        """
        return np.array([self._class_in(caption) for caption in captions], dtype=np.int64)

    def _class_in(self, caption: str) -> int:
        names = self.classes
        found = [name for name in names if re.search(rf"\b{re.escape(name)}\b", caption, flags=re.IGNORECASE)]
        widest = [name for name in found if not any(name != other and name in other for other in found)]
        if len(widest) != 1:
            what = "names no" if not widest else f"names both {widest[0]!r} and {widest[1]!r} as"
            raise ValueError(
                f"metrics.judge: prompt {caption!r} {what} {self.attribute} that the judge knows "
                f"({', '.join(names[:4])}, ...); give prompts in its words, or leave the judge out."
            )
        return names.index(widest[0])
