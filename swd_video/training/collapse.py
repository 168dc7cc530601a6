"""Signs that a student collapses: its clips grow alike, stop moving, or lose or overdo their colours.

Measured on pixels, in no time and by no network: coarse, good for an alarm and not for a judgement.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from statistics import fmean

import numpy as np
from jaxtyping import UInt8

Clip = UInt8[np.ndarray, "frames height width 3"]
ClipsByPrompt = Sequence[Sequence[np.ndarray]]
"""For every prompt its samples, as uint8 RGB of one size (frames, height, width, 3)."""


def measure_clips(clips: ClipsByPrompt) -> dict[str, float]:
    """Diversity, motion and saturation of clips.

    Returns:
        `diversity`: root mean square difference of two samples of a prompt, where a prompt has two; `motion`: mean
        change of a pixel from frame to frame; `saturation`: mean distance between the largest and the smallest of a
        pixel's three channels. All from 0 to 1.
    """
    measured = {
        "motion": fmean(_motion(clip) for samples in clips for clip in samples),
        "saturation": fmean(_saturation(clip) for samples in clips for clip in samples),
    }
    pairs = [pair for samples in clips for pair in combinations(samples, 2)]
    if pairs:
        measured["diversity"] = fmean(_distance(*pair) for pair in pairs)
    return measured


def shares_of(measured: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Measures as shares of a reference's, those that both have and that are not 0 there."""
    return {name: value / reference[name] for name, value in measured.items() if reference.get(name, 0) > 0}


def collapse_warning(shares: Mapping[str, float], least: float, whose: str) -> str | None:
    """One line where a share is too small, or the saturation also too large; None where all is well.

    The largest share of the saturation that is well is one over the least; 0 never warns.
    """
    wrong = [
        f"{name} is {share:.0%}"
        for name, share in shares.items()
        if share < least or (name == "saturation" and share * least > 1)
    ]
    if not wrong:
        return None
    return f"the student's {' and its '.join(wrong)} of the {whose}'s (train.collapse_share: {least:.0%})"


def _motion(clip: Clip) -> float:
    return (
        fmean(float(np.abs(_from_0_to_1(b) - _from_0_to_1(a)).mean()) for a, b in pairwise(clip))
        if len(clip) > 1
        else 0.0
    )


def _saturation(clip: Clip) -> float:
    return float((clip.max(axis=-1) - clip.min(axis=-1)).mean()) / 255


def _distance(first: Clip, second: Clip) -> float:
    squared = [
        float(np.square(_from_0_to_1(a) - _from_0_to_1(b)).mean()) for a, b in zip(first, second, strict=True)
    ]
    return fmean(squared) ** 0.5


def _from_0_to_1(frame: UInt8[np.ndarray, "height width 3"]) -> np.ndarray:
    return frame.astype(np.float32) / 255
