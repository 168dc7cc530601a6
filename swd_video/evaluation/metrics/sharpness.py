"""How much fine detail frames show, measured on pixels."""

import cv2
import numpy as np
from jaxtyping import UInt8

from swd_video.evaluation.clip_store import check_clips
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import ShareOfBaseline


class Sharpness(ShareOfBaseline):
    """See `sharpness`."""

    key = "sharpness"
    title = "sharpness, share"
    meaning = (
        "Deviation of the Laplacian of the frames, as a share of {reference}'s. Below 1, pictures are softer."
    )

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of each clip."""
        return {self.key: np.array([sharpness(clip) for clip in batch.frames])}


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
