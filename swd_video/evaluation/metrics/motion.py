"""Motion and flicker, measured on pixels."""

import itertools
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from swd_video.core.interval import Estimate, bootstrap_mean
from swd_video.evaluation.clip_store import check_clips
from swd_video.evaluation.config import FlowMethod
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import Beside, MeanOfClips, Scores, ShareOfBaseline

_Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Motion(ShareOfBaseline):
    """How much moves; see `flow_magnitude`."""

    key = "flow"
    title = "motion, share"
    meaning = (
        "Mean length of the optical flow, as a share of {reference}'s. Below 1, things move more slowly."
    )

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of each clip, in pixels a frame."""
        return {self.key: np.array([flow_magnitude(clip, batch.judges.flow) for clip in batch.frames])}

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """As a share of the baseline's, and in pixels."""
        mean = bootstrap_mean(scores[self.key], scores.prompts)
        return super().summarise(scores, beside) | {"flow_px": mean}


class Steadiness(MeanOfClips):
    """See `flicker_score`."""

    key = "flicker"
    title = "steadiness"
    digits = 3
    margin = 0.005
    meaning = (
        "1 minus the mean change of a pixel from frame to frame (VBench's temporal flickering). It falls with motion "
        "too: read it beside the motion."
    )

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of each clip."""
        return {self.key: np.array([flicker_score(clip) for clip in batch.frames])}


def flow_lengths(
    frames: UInt8[np.ndarray, "frames height width 3"], method: FlowMethod = "dis"
) -> Float[np.ndarray, " frames-1"]:
    """Mean length of the optical flow over all pixels, from each frame to the next, in pixels.

    Sources: DIS, Kroeger et al. (arXiv 1603.03590); Farneback, 2003.

    Raises:
        ValueError: If there are fewer than two frames or they are not uint8 RGB.
    """
    check_clips(frames[None])
    estimator = _estimator(method)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.array([np.linalg.norm(estimator(a, b), axis=-1).mean() for a, b in itertools.pairwise(grey)])


def flow_magnitude(frames: UInt8[np.ndarray, "frames height width 3"], method: FlowMethod = "dis") -> float:
    """Mean length of the optical flow over all pixels and adjacent frames, in pixels a frame.

    Raises:
        ValueError: If there are fewer than two frames or they are not uint8 RGB.
    """
    return float(flow_lengths(frames, method).mean())


def flicker_score(frames: UInt8[np.ndarray, "frames height width 3"]) -> float:
    """Temporal flickering as VBench defines it: `(255 - mean |frame - next frame|) / 255`, 1 = no change.

    VBench takes it over clips of still scenes; over moving ones it falls with motion too, so it is to be
    read beside the motion and beside real clips of the same prompts.
    Source: VBench (arXiv 2311.17982), "temporal flickering".

    Raises:
        ValueError: If there are fewer than two frames or they are not uint8 RGB.
    """
    check_clips(frames[None])
    change = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean()
    return float((255.0 - change) / 255.0)


def _estimator(method: FlowMethod) -> _Flow:
    if method == "farneback":
        return _farneback
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda first, second: dis.calc(first, second, None)


def _farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    start = np.zeros((*first.shape, 2), dtype=np.float32)
    return cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 3, 15, 3, 5, 1.2, 0)
