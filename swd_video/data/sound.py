"""Read sound files: as much as is asked for, in stereo at one rate."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32

from swd_video.data.containers import VideoError, check_file, open_container

SOUND_RATE = 48_000
"""Samples a second of everything that is read here."""

FADE_SECONDS = 1.0
"""How long sound takes to fade out; a quarter of what is read if that is less."""

_BLOCK = 1024

Samples = Float32[np.ndarray, "2 samples"]


def sound_seconds(path: Path) -> Fraction:
    """How long a file's sound is, by reading it: what files say of their length is often no more than a guess.

    Raises:
        VideoError: if it cannot be read, or has no sound in it.
    """
    try:
        check_file(path)
        return Fraction(sum(block.shape[1] for block in _resampled(path)), SOUND_RATE)
    except VideoError as error:
        raise VideoError(path, f"{error.reason} Name a sound file, such as WAV, MP3 or M4A.") from None


def read_sound(path: Path, samples: int, *, fades: bool) -> Iterator[Samples]:
    """The beginning of a file's sound, so many samples at `SOUND_RATE`, in blocks; then silence.

    Raises:
        VideoError: if it cannot be read, or has no sound in it.
    """
    fade = min(samples // 4, round(FADE_SECONDS * SOUND_RATE)) if fades else 0
    at = 0
    for block in itertools.chain(_resampled(path), itertools.repeat(np.zeros((2, _BLOCK), np.float32))):
        if at >= samples:
            break
        block = block[:, : samples - at]
        left = samples - np.arange(at, at + block.shape[1])
        yield (block * np.minimum(left / fade, 1) if fade else block).astype(np.float32)
        at += block.shape[1]


def _resampled(path: Path) -> Iterator[Samples]:
    with open_container(path, "sound") as container:
        if not container.streams.audio:
            raise VideoError(path, "has no sound in it.")
        resampler = av.AudioResampler("fltp", "stereo", SOUND_RATE, frame_size=_BLOCK)
        for frame in itertools.chain(container.decode(container.streams.audio[0]), [None]):
            for piece in resampler.resample(frame):
                yield np.asarray(piece.to_ndarray(), np.float32)
