"""How much fine detail frames show, measured on pixels."""

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import UInt8

from swd_video.core.interval import Estimate
from swd_video.evaluation.clips import check_clips
from swd_video.evaluation.metrics.metric import Batch, Beside, Metric, Scores, share_of_baseline


def sharpness(frames: UInt8[np.ndarray, "frames height width 3"]) -> float:
    """Deviation of the Laplacian of the grey frames, 0 to 255, on average over frames: 0 for a flat picture.

    Noise counts as detail too, and the figure depends on size and content: read it beside clips of the same prompts.
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (2000), the variance of the Laplacian.

    Raises:
        ValueError: If there are fewer than two frames or they are not uint8 RGB.
    """
    check_clips(frames[None])
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    return float(np.mean([cv2.Laplacian(picture, cv2.CV_32F).std() for picture in grey]))


class Sharpness(Metric):
    """As a share of the reference row's."""

    key = "sharpness"
    title = "sharpness, share"
    meaning = (
        "Deviation of the Laplacian of the frames, as a share of {reference}'s. Below 1, pictures are softer."
    )
    better = "reference"
    margin = 0.05

    def measure(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """One number for each clip."""
        return {self.key: np.array([sharpness(clip) for clip in batch.frames])}

    def summarise(self, scores: Scores, beside: Beside) -> Mapping[str, Estimate]:
        """The share."""
        return {self.key: share_of_baseline(self.key, scores, beside.baseline)}
