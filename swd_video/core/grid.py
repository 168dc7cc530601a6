"""Sizes of clips in pixels and in latents, and which of them a model accepts."""

import math
import re
from dataclasses import dataclass
from typing import TypeVar

# Not typing.Self: beartype, which checks signatures in tests, refuses it outside decorated classes.
_SizeT = TypeVar("_SizeT", bound="_Size")
_SIZE_PATTERN = re.compile(r"\s*(\d+)\s*[x×]\s*(\d+)\s*[x×]\s*(\d+)\s*")


_AXES = ("frames", "height", "width")


@dataclass(frozen=True)
class _Size:
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for axis in _AXES:
            value = getattr(self, axis)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{type(self).__name__}.{axis}: got {value!r}, expected a whole number of at least 1."
                )

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    def as_tuple(self) -> tuple[int, int, int]:
        """(frames, height, width), the axis order of every tensor here."""
        return (self.frames, self.height, self.width)

    @classmethod
    def parse(cls: type[_SizeT], text: str) -> _SizeT:
        """Read "FRAMESxHEIGHTxWIDTH", for example "33x128x128".

        Raises:
            ValueError: if `text` is not three whole numbers of at least 1 joined by "x".
        """
        match = _SIZE_PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a size; write FRAMESxHEIGHTxWIDTH, for example 33x128x128.")
        frames, height, width = (int(group) for group in match.groups())
        return cls(frames, height, width)


@dataclass(frozen=True)
class PixelSize(_Size):
    """Size of a clip as one watches it: frames, height and width in pixels."""


@dataclass(frozen=True)
class LatentSize(_Size):
    """Size of a clip as the transformer sees it: latent frames, height and width."""


@dataclass(frozen=True)
class Compression:
    """How a causal video VAE and a patchifying transformer divide a clip.

    `temporal * k + 1` frames become `k + 1` latent frames: latent frame 0 holds one picture, every
    later one holds `temporal` of them. Height and width shrink by `spatial`.

    A transformer that joins `p` latent frames in a token gets the first one `p` times, as CogVideoX 1.5 (p = 2) was
    trained: `[z0, z0, z1, z2]`. So `p (k + 1)` latent frames stand for `temporal p k + 1` frames, and the first
    `p - 1` of them are copies, which are dropped before decoding.

    Attributes:
        temporal: frames per latent frame, after the first.
        spatial: pixels per latent along height and along width.
        patch: latents in one transformer token along frames, height and width.
        limits: the most latents along frames, height and width that the transformer's positions count; None
            where they go on for ever.
    """

    temporal: int = 4
    spatial: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)
    limits: tuple[int | None, int | None, int | None] = (None, None, None)

    def tokens(self, size: LatentSize) -> int:
        """Number of transformer tokens of a legal grid.

        Raises:
            ValueError: if it is not a whole number of patches, or more than positions count.
        """
        nearest = LatentSize(*map(_nearest_multiple, size.as_tuple(), self.patch))
        if nearest != size:
            raise ValueError(
                f"latent size {size} is not a whole number of {_join(self.patch)} patches. Nearest legal latent "
                f"size: {self._within_limits(nearest)}."
            )
        for axis, have, most in zip(_AXES, size.as_tuple(), self.limits, strict=True):
            if most is not None and have > most:
                raise ValueError(
                    f"latent size {size}: got {have} latents along {axis}, expected at most the {most} that the "
                    f"model's positions count. Nearest legal latent size: {self._within_limits(size)}."
                )
        return math.prod(size.as_tuple()) // math.prod(self.patch)

    def latent_size(self, size: PixelSize) -> LatentSize:
        """The latent size of a legal clip.

        Raises:
            ValueError: if the model cannot take this size; the message offers the nearest one it can.
        """
        nearest = self.nearest_legal(size)
        if nearest != size:
            raise ValueError(
                f"{size} (frames x height x width) is not a legal size: got {size.frames} frames, expected "
                f"{self._frames_rule()}; got height {size.height} and width {size.width}, expected multiples "
                f"of {self.steps[1]} and {self.steps[2]}{self._limits_rule(size)}. Nearest legal size: {nearest}."
            )
        latent_frames = (size.frames - 1) // self.temporal + 1 + self.repeated_frames
        return LatentSize(latent_frames, size.height // self.spatial, size.width // self.spatial)

    def pixel_size(self, size: LatentSize) -> PixelSize:
        """The size of the clip that latents of `size` decode to."""
        frames = (size.frames - self.repeated_frames - 1) * self.temporal + 1
        return PixelSize(frames, size.height * self.spatial, size.width * self.spatial)

    @property
    def repeated_frames(self) -> int:
        """Copies of the first latent frame in front of it."""
        return self.patch[0] - 1

    def nearest_legal(self, size: PixelSize) -> PixelSize:
        """The legal size closest to `size` on every axis; the smaller one where two are equally near."""
        grid = LatentSize(
            _nearest_multiple((size.frames - 1) / self.temporal + 1 + self.repeated_frames, self.patch[0]),
            _nearest_multiple(size.height, self.steps[1]) // self.spatial,
            _nearest_multiple(size.width, self.steps[2]) // self.spatial,
        )
        return self.pixel_size(self._within_limits(grid))

    def _within_limits(self, size: LatentSize) -> LatentSize:
        limits = zip(size.as_tuple(), self.limits, self.patch, strict=True)
        return LatentSize(
            *(have if most is None else min(have, most // step * step) for have, most, step in limits)
        )

    @property
    def steps(self) -> tuple[int, int, int]:
        """How far apart legal sizes are: frames, height and width, in pixels."""
        return self.temporal * self.patch[0], self.spatial * self.patch[1], self.spatial * self.patch[2]

    def _frames_rule(self) -> str:
        return f"{self.steps[0]}k + 1"

    def _limits_rule(self, size: PixelSize) -> str:
        """What a size is told that goes beyond the model's positions."""
        most = self.pixel_size(LatentSize(*map(lambda limit, step: limit or step, self.limits, self.patch)))
        axes = zip(_AXES, size.as_tuple(), most.as_tuple(), self.limits, strict=True)
        passed = [f"{axis} {to}" for axis, have, to, limit in axes if limit is not None and have > to]
        return f"; the model's positions count to {' and '.join(passed)}" if passed else ""


def window_size(grid: LatentSize, frames: int | None, crop: tuple[int, int] | None) -> LatentSize:
    """What a window shows of a grid: at most so many frames and so much of the picture; None for all of it."""
    height, width = crop or (grid.height, grid.width)
    return LatentSize(
        min(frames or grid.frames, grid.frames), min(height, grid.height), min(width, grid.width)
    )


def _nearest_multiple(value: float | int, step: int) -> int:
    below = int(value // step) * step
    nearest = below if value - below <= below + step - value else below + step
    return max(step, nearest)


def _join(numbers: tuple[int, ...]) -> str:
    return "x".join(str(number) for number in numbers)
