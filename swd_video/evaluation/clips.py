"""What every judge expects of a clip."""

import numpy as np


def check_clips(frames: np.ndarray) -> None:
    """Check that a batch of clips is uint8 RGB with at least two frames each.

    Raises:
        ValueError: If it is not.
    """
    if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or frames.shape[1] < 2:
        raise ValueError(
            f"clips: got {frames.dtype} of shape {frames.shape}, "
            "expected uint8 (clips, frames, height, width, 3) with two or more frames."
        )
