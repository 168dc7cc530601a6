"""What a judge reads off clips beyond their prompts: how much it varies, and how far it travels."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from swd_video.evaluation.judges import Batch, Judges
from swd_video.evaluation.metrics.diversity import Diversity
from swd_video.evaluation.metrics.metric import ShareOfBaseline


class Variety(Diversity):
    """How far the samples of a prompt lie apart in size, place, phase and colour, as a judge reads them."""

    key = "variety"
    title = "variety, share"
    meaning = (
        "How much the samples of one prompt differ in what the judge reads beyond it, such as size, place and colour, "
        "each in its deviation among real clips, as a share of {spread_of}. Below 1, the model makes more of the same."
    )
    measured = "readings"

    def is_told_by(self, judges: Judges) -> bool:
        """By one that reads numbers."""
        return bool(judges.readings)

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """What the judge reads, if it reads numbers; so that more of them make no figure larger, by their root."""
        readings = batch.readings
        return {self.measured: readings / np.sqrt(readings.shape[1])} if readings.shape[1] else {}


class Travel(ShareOfBaseline):
    """How far things get from the first frame to the last; see `travelled`."""

    key = "travel"
    title = "way travelled, share"
    meaning = (
        "How far place and size change from the first frame to the last, as the judge reads them, as a share of "
        "{reference}'s. Unlike optical flow it does not count what trembles."
    )

    def is_told_by(self, judges: Judges) -> bool:
        """By one that reads where things begin and end."""
        return travelled({name: np.zeros(1) for name in judges.readings}) is not None

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of each clip, if the judge reads where things begin and end."""
        scales = batch.judges.readings
        numbers = batch.readings * list(scales.values())
        found = travelled(dict(zip(scales, numbers.T, strict=True)))
        return {} if found is None else {self.key: found}


def travelled(readings: Mapping[str, Float[np.ndarray, " clips"]]) -> Float[np.ndarray, " clips"] | None:
    """The length of the way from `NAME_first` to `NAME_last`, over all that have both; None where nothing has."""
    ways = [
        readings[f"{name}_last"] - first
        for name, first in ((key.removesuffix("_first"), value) for key, value in readings.items())
        if f"{name}_first" in readings and f"{name}_last" in readings
    ]
    return np.linalg.norm(ways, axis=0) if ways else None
