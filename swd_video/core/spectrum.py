"""Space-time power spectra of latents, and the smallest grid that each noise level allows.

Noise hides detail. `noisy = (1 - sigma) x0 + sigma noise`, and an orthonormal transform leaves white noise white:
every coefficient of the noisy latents holds `(1 - sigma)^2` of the power that it has in x0, and `sigma^2` of noise.
A frequency of power `P` is *hidden* where `(1 - sigma)^2 P <= sigma^2`. A smaller grid loses its high frequencies;
where they are all hidden anyway, it loses nothing.

The transform is the orthonormal DCT-II along each axis. A Fourier transform takes a clip for one period of an endless
one, so the jump from its last frame to its first and from one border to the other would count as high frequencies; a
DCT goes on with the mirror image, which has no jump. Its coefficient `k` of `N` completes `k / 2` periods, so a grid
of `n` points holds coefficients 0 to n - 1. Time has a catch: latent frame 0 of a causal VAE holds one picture and
looks unlike the others, a step that would spread over all frequencies. It therefore stays as it is, coefficient 0 in
time, and the DCT runs over the frames that follow, coefficients 1 on. A grid of `n` frames (one picture, n - 1
groups) then holds coefficients 0 to n - 1, as in space.

Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 3, Fig. 1 and 13, which compares
radially averaged spectra with that of the noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from swd_video.core.grid import Compression, LatentSize

Averaging = Literal["none", "radial", "axis"]
"""Whose power is compared with the noise.

none: every space-time frequency by itself, so that not one that is lost stands out of the noise. The strictest.
radial: a frequency in time on average over space, a ring of spatial frequencies on average over time, as in SwD. Few
    strong frequencies may hide among many weak ones; those of still pictures and of motion as a whole do.
axis: in time as `radial`; in space a frequency along height, or along width, on average over the two other axes.
"""

AXES = ("frames", "height", "width")
Patch = tuple[int, int, int]


@dataclass(frozen=True)
class LatentSpectrum:
    """Mean power of every space-time frequency.

    Attributes:
        power: squared coefficients, averaged over channels and clips. White noise of unit variance has 1 everywhere.
        num_clips: clips averaged over.
    """

    power: Float[Tensor, "frames height width"]
    num_clips: int

    @property
    def size(self) -> LatentSize:
        """The grid of the latents."""
        return LatentSize(*self.power.shape)

    def along(self, axis: str) -> Float[Tensor, " frequencies"]:
        """Power of every frequency along "frames", "height" or "width", averaged over the two other axes.

        The transform is orthonormal, so that is also the spectrum of a line of latents, averaged over all lines.
        """
        return self.power.mean(_others(axis))

    def strongest(self, axis: str) -> Float[Tensor, " frequencies"]:
        """For every frequency along an axis, the largest power that it has with any frequency of the others."""
        return self.power.amax(_others(axis))

    def radial(self) -> Float[Tensor, " rings"]:
        """Power of rings of equal spatial frequency, averaged over time.

        Ring r of R = max(height, width) holds the coefficients whose frequency is r / R to (r + 1) / R of the
        highest on one axis. Rings from R on are corners, beyond that of both axes.
        """
        rings = _rings(self.power.shape[1], self.power.shape[2]).flatten()
        plane = self.power.mean(0).flatten()
        return torch.bincount(rings, weights=plane) / torch.bincount(rings)

    def lowest_sigmas(self, axis: str, averaging: Averaging) -> Float[Tensor, " sizes"]:
        """For every size 1, 2, ... of one axis, the lowest noise level that hides all that is lost there.

        Decreasing, and 0 for the full size, which loses nothing.
        """
        full = self.power.shape[AXES.index(axis)]
        by_ring = averaging == "radial" and axis != "frames"
        averaged = self.radial() if by_ring else self.along(axis)
        hiding = hiding_sigma(self.strongest(axis) if averaging == "none" else averaged)
        # The highest hiding level from a frequency on: what a grid needs that loses all of these.
        tail = hiding.flip(0).cummax(0).values.flip(0)
        longest = max(self.power.shape[1:])
        first_lost = [size * longest // full if by_ring else size for size in range(1, full)]
        return torch.cat([tail[first_lost], tail.new_zeros(1)])

    def smallest_grid(
        self, sigma: float | int, patch: Patch = (1, 2, 2), averaging: Averaging = "none"
    ) -> LatentSize:
        """The smallest legal grid whose lost frequencies are all hidden at a noise level, axis by axis.

        Raises:
            ValueError: if `sigma` is no noise level, or the latents are not a whole number of patches.
        """
        _check_sigma(sigma)
        Compression(patch=patch).tokens(self.size)
        sizes = []
        for axis, step in zip(AXES, patch, strict=True):
            lowest = self.lowest_sigmas(axis, averaging)
            legal = range(step, len(lowest) + 1, step)
            sizes.append(next(size for size in legal if lowest[size - 1] <= sigma))
        return LatentSize(*sizes)

    def lost_over_noise(self, grid: LatentSize, sigma: float | int) -> float:
        """Signal power that a grid loses, over the power of the noise on the same frequencies: the joint criterion.

        All that the grid loses on any axis, taken together: below 1, the noise outweighs it. 0 if nothing is lost.

        Raises:
            ValueError: if `sigma` is no noise level, or the grid is larger than the latents.
        """
        _check_sigma(sigma)
        if any(asked > full for asked, full in zip(grid.as_tuple(), self.size.as_tuple(), strict=True)):
            raise ValueError(f"grid {grid} is larger than that of the latents, {self.size}.")
        lost = torch.ones_like(self.power, dtype=torch.bool)
        lost[: grid.frames, : grid.height, : grid.width] = False
        signal = (1 - sigma) ** 2 * self.power[lost].sum().item()
        noise = sigma**2 * lost.sum().item()
        if signal == 0:
            return 0.0
        return signal / noise if noise else float("inf")


def hiding_sigma(power: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The lowest noise level that hides a frequency: `sqrt(P) / (1 + sqrt(P))`.

    It solves `(1 - sigma)^2 P = sigma^2`, where signal and noise are equal.
    """
    amplitude = power.sqrt()
    return amplitude / (1 + amplitude)


def transform_latents(
    latents: Float[Tensor, "batch channels frames height width"],
) -> Float[Tensor, "batch channels frames height width"]:
    """Orthonormal space-time coefficients, in float64: see the module for the transform and its order in time."""
    frames, height, width = latents.shape[2:]
    time = torch.eye(frames, dtype=torch.float64)
    if frames > 1:
        time[1:, 1:] = dct_matrix(frames - 1)
    # Axis by axis: in one einsum, torch may multiply the three matrices first, which is huge.
    rows = torch.einsum("xw,bcfhw->bcfhx", dct_matrix(width), latents.double())
    planes = torch.einsum("yh,bcfhx->bcfyx", dct_matrix(height), rows)
    return torch.einsum("tf,bcfyx->bctyx", time, planes)


def dct_matrix(size: int) -> Float[Tensor, "size size"]:
    """The orthonormal DCT-II: row k is `sqrt(2 / size) cos(pi k (2 j + 1) / (2 size))`, row 0 `sqrt(1 / size)`.

    Source: Discrete Cosine Transform (Ahmed, Natarajan and Rao, IEEE Trans. Computers C-23, 1974), Eq. 1.
    """
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(torch.pi / size * places[:, None] * (places + 0.5)) * (2 / size) ** 0.5
    matrix[:1] /= 2**0.5
    return matrix


def measure_spectrum(batches: Iterable[Float[Tensor, "_ _ _ _ _"]]) -> LatentSpectrum:
    """Average the power of clips that share one grid.

    Args:
        batches: latents, (clips, channels, frames, height, width), normalised as the transformer sees them; the noise
            that they are compared with has unit variance.

    Raises:
        ValueError: if there is no clip, a clip has one frame, grids or channels differ, or a number is not finite.
    """
    total: Tensor | None = None
    shape, clips = None, 0
    for latents in batches:
        if shape is None:
            shape = latents.shape[1:]
            _check_frames(latents.shape[2])
        if latents.shape[1:] != shape:
            raise ValueError(
                f"latents: got clips of {_name(latents.shape[1:])} after {_name(shape)}, expected one size of all."
            )
        finite = latents.isfinite().flatten(1).all(1)
        if not finite.all():
            first = clips + int(finite.logical_not().nonzero()[0])
            raise ValueError(f"latents: clip {first} (from 0) holds infinite or nan; encode it again.")
        power = transform_latents(latents).square().mean(1).sum(0)
        total = power if total is None else total + power
        clips += latents.shape[0]
    if total is None or not clips:
        raise ValueError("latents: got no clip, expected at least one.")
    return LatentSpectrum(total / clips, clips)


def _others(axis: str) -> tuple[int, ...]:
    return tuple(index for index, name in enumerate(AXES) if name != axis)


def _rings(height: int, width: int) -> Int[Tensor, "height width"]:
    rows = torch.arange(height, dtype=torch.float64)[:, None] / height
    columns = torch.arange(width, dtype=torch.float64)[None, :] / width
    # The little more keeps a coefficient on an axis, whose frequency is a whole fraction, in its own ring.
    return (max(height, width) * torch.hypot(rows, columns) + 1e-9).floor().long()


def _check_frames(frames: int) -> None:
    if frames < 2:
        raise ValueError(
            "latents: got clips of one latent frame, expected at least 2: there is no spectrum in time. "
            "Encode longer clips."
        )


def _check_sigma(sigma: float | int) -> None:
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma: got {sigma}, expected a noise level from 0 to 1.")


def _name(shape: torch.Size) -> str:
    channels, frames, height, width = shape
    return f"{channels} channels, {frames}x{height}x{width}"
