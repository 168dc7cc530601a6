"""The networks and methods that judge clips; none of them may have trained a student that it judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swd_video.evaluation.attribute_judge import AttributeJudge
from swd_video.evaluation.clip_features import (
    FrameFeatures,
    VideoFeatures,
    load_features,
    load_frame_features,
    pool_frames,
)
from swd_video.evaluation.config import FlowMethod, MetricsConfig
from swd_video.models.fingerprint import weights_digest


@dataclass(frozen=True)
class Judges:
    """The networks and methods that measure clips.

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

    @classmethod
    def load(cls, section: MetricsConfig, *, device: str) -> "Judges":
        """Load what a config names.

        Raises:
            ValueError: If a network is missing or of a wrong kind.
        """
        encoder = load_features(section.encoder, device=device)
        same = section.frame_encoder == section.encoder and isinstance(encoder, FrameFeatures)
        frame_encoder: Any = encoder if same else load_frame_features(section.frame_encoder, device=device)
        judge = None if section.judge is None else AttributeJudge.load(Path(section.judge), device=device)
        return cls(encoder, frame_encoder, judge, section.optical_flow)

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """What the judge reads, by attribute."""
        return {} if self.judge is None else self.judge.classes

    @property
    def readings(self) -> Mapping[str, float]:
        """The numbers that the judge reads, with their deviations."""
        return {} if self.judge is None else self.judge.readings

    @cached_property
    def names(self) -> list[str]:
        """What tells these judges from others."""
        judge = "" if self.judge is None else weights_digest(self.judge)
        encoders = [f"{one.name} {one.digest}".strip() for one in (self.encoder, self.frame_encoder)]
        return [*encoders, judge, self.flow]


@dataclass(frozen=True)
class Batch:
    """Some clips, and what the judges see in them, each found out once however many metrics ask.

    Attributes:
        frames: uint8, (clips, frames, height, width, 3).
    """

    frames: np.ndarray
    judges: Judges

    @cached_property
    def frame_features(self) -> np.ndarray:
        """Of each frame, by the frame encoder: (clips, frames, features)."""
        return self.judges.frame_encoder.frame_features(self.frames)

    @cached_property
    def features(self) -> np.ndarray:
        """Of each clip, by the encoder: (clips, features)."""
        if self.judges.encoder is self.judges.frame_encoder:
            return pool_frames(self.frame_features)
        return self.judges.encoder(self.frames)

    @property
    def read(self) -> dict[str, np.ndarray]:
        """Classes that the judge reads, by attribute."""
        return self._judged[0]

    @property
    def readings(self) -> np.ndarray:
        """Numbers that the judge reads, in their deviations among real clips of one prompt: (clips, readings)."""
        return self._judged[1]

    @cached_property
    def _judged(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        if self.judges.judge is None:
            return {}, np.zeros((len(self.frames), 0))
        return self.judges.judge.predict(self.frames)
