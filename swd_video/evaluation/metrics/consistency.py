"""Subject consistency: whether what a clip shows stays the same thing from frame to frame."""

import numpy as np
from jaxtyping import Float

from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import MeanOfClips


class Consistency(MeanOfClips):
    """See `subject_consistency`."""

    key = "consistency"
    title = "subject consistency"
    digits = 3
    margin = 0.01
    meaning = (
        "How similar each frame is to the one before and to the first (VBench's formula, features of {frame_encoder}). "
        "It falls with motion too."
    )

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of each clip."""
        return {self.key: subject_consistency(batch.frame_features)}


def subject_consistency(
    per_frame: Float[np.ndarray, "clips frames features"],
) -> Float[np.ndarray, " clips"]:
    """Mean over frames from the second on of the similarity to the frame before and to the first, 1 = the same.

    Similarity is the cosine of two frames' features, and nothing below 0. VBench takes the features of DINO, so its
    figures cannot be compared with those of another encoder.
    Source: VBench (arXiv 2311.17982), "subject consistency".
    """
    unit = per_frame / np.maximum(np.linalg.norm(per_frame, axis=-1, keepdims=True), 1e-12)
    to_previous = (unit[:, 1:] * unit[:, :-1]).sum(axis=-1).clip(min=0)
    to_first = (unit[:, 1:] * unit[:, :1]).sum(axis=-1).clip(min=0)
    return np.asarray((to_previous + to_first).mean(axis=1) / 2)
