"""Latents are built from known coefficients here, so that every cut-off has an exact answer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.core.spectrum import (
    LatentSpectrum,
    dct_matrix,
    hiding_sigma,
    measure_spectrum,
    transform_latents,
)

# beartype looks at a random batch of every list; no draw depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

sizes = st.builds(LatentSize, st.integers(2, 6), st.integers(1, 7), st.integers(1, 7))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def latents_of(coefficients: Tensor) -> Tensor:
    """The inverse of `transform_latents`, written without it: sums of cosines, the first frame left as it is."""

    def waves(size: int) -> Tensor:
        places = torch.arange(size).double()
        rows = [
            math.sqrt((1 if k == 0 else 2) / size) * torch.cos(math.pi * k * (places + 0.5) / size)
            for k in range(size)
        ]
        return torch.stack(rows)

    _, _, frames, height, width = coefficients.shape
    spatial = torch.einsum("bctyx,yh,xw->bcthw", coefficients.double(), waves(height), waves(width))
    later = torch.einsum("bcthw,tf->bcfhw", spatial[:, :, 1:], waves(frames - 1))
    return torch.cat([spatial[:, :, :1], later], dim=2)


def band(size: LatentSize, held: LatentSize) -> Tensor:
    """Coefficients of 1 on all that `held` holds, 0 elsewhere."""
    coefficients = torch.zeros(1, 1, *size.as_tuple())
    coefficients[:, :, : held.frames, : held.height, : held.width] = 1
    return coefficients


@given(sizes)
def test_the_transform_inverts_and_keeps_power(size: LatentSize) -> None:
    coefficients = noise(2, 3, *size.as_tuple()).double()
    latents = latents_of(coefficients)
    torch.testing.assert_close(transform_latents(latents), coefficients)
    power = latents.square().mean(1).sum() / 2
    torch.testing.assert_close(measure_spectrum([latents]).power.sum(), power)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_white_noise_stays_white(size: int) -> None:
    matrix = dct_matrix(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size).double())


def test_an_average_is_over_channels_and_clips_however_they_are_batched() -> None:
    latents = noise(5, 4, 3, 4, 6)
    whole = measure_spectrum([latents])
    parts = measure_spectrum(latents.split([1, 3, 1]))
    assert whole.num_clips == parts.num_clips == 5
    torch.testing.assert_close(whole.power, parts.power)
    torch.testing.assert_close(whole.power, transform_latents(latents).square().mean((0, 1)))
    torch.testing.assert_close(measure_spectrum([latents * 3]).power, 9 * whole.power)


def test_spectra_of_one_axis_and_of_rings() -> None:
    power = torch.arange(2 * 2 * 4).double().reshape(2, 2, 4)
    spectrum = LatentSpectrum(power, 1)
    assert spectrum.along("frames").tolist() == [3.5, 11.5]
    assert spectrum.along("height").tolist() == [5.5, 9.5]
    assert spectrum.along("width").tolist() == [6, 7, 8, 9]
    plane = power.mean(0)
    # R = 4 rings on the axes; row 1 of 2 lies at half the highest frequency, so in ring 2 and beyond.
    rings = [plane[0, 0], plane[0, 1], (plane[0, 2] + plane[1, 0] + plane[1, 1] + plane[1, 2]) / 4]
    expected = [*rings, (plane[0, 3] + plane[1, 3]) / 2]
    torch.testing.assert_close(spectrum.radial(), torch.stack(expected))


def test_a_coefficient_on_an_axis_lies_in_its_own_ring() -> None:
    for height, width in ((12, 12), (60, 104), (49, 30), (7, 93)):
        power = torch.zeros(2, height, width).double()
        for k in range(max(height, width)):
            power.zero_()
            power[0, k if height > width else 0, 0 if height > width else k] = 1
            assert LatentSpectrum(power, 1).radial().nonzero().tolist() == [[k]]


@pytest.mark.parametrize("held", [LatentSize(2, 4, 8), LatentSize(4, 2, 2), LatentSize(5, 8, 12)])
def test_a_band_limit_is_found_axis_by_axis(held: LatentSize) -> None:
    size = LatentSize(6, 8, 12)
    spectrum = measure_spectrum([latents_of(band(size, held))])
    for sigma in (0.01, 0.1):
        assert spectrum.smallest_grid(sigma, averaging="axis") == held
        assert spectrum.smallest_grid(5 * sigma - 1e-9) == held
        assert spectrum.lost_over_noise(held, sigma) < 1e-9
    # Each axis is averaged over the two others, whose empty frequencies thin the power out.
    thin = held.height * held.width / (size.height * size.width)
    lowest = spectrum.lowest_sigmas("frames", "axis")
    threshold = math.sqrt(thin) / (1 + math.sqrt(thin))
    torch.testing.assert_close(lowest[: held.frames - 1], torch.full((held.frames - 1,), threshold).double())
    assert lowest[held.frames - 1 :].abs().max() < 1e-9


def test_one_strong_frequency_among_weak_ones_counts_without_averaging_only() -> None:
    coefficients = torch.full((1, 1, 5, 8, 8), 0.01)
    coefficients[..., 3, 0, 5] = 4
    spectrum = measure_spectrum([latents_of(coefficients)])
    # Alone it has power 16, on average over 64 and over the 7 or so of its ring a good deal less.
    assert spectrum.smallest_grid(0.75) == LatentSize(4, 2, 6)
    assert spectrum.smallest_grid(0.81) == LatentSize(1, 2, 2)
    for averaging in ("radial", "axis"):
        assert spectrum.smallest_grid(0.75, averaging=averaging) == LatentSize(1, 2, 2)
    assert spectrum.strongest("width").tolist() == pytest.approx([1e-4] * 5 + [16] + [1e-4] * 2)


@pytest.mark.parametrize(("sigma", "frames"), [(0.1, 21), (0.25, 12), (0.5, 4), (0.6, 3), (0.8, 1)])
def test_a_power_law_in_time_is_cut_where_it_meets_the_noise(sigma: float, frames: int) -> None:
    """Power 16 / k^2 is below the noise from k = 4 (1 - sigma) / sigma on."""
    k = torch.arange(1, 21).double()
    coefficients = torch.cat([torch.full((1,), 4.0).double(), 4 / k])[:, None, None].expand(1, 1, 21, 4, 4)
    # Slightly less, so that what equals the noise is hidden whichever way it is rounded.
    spectrum = measure_spectrum([latents_of(coefficients * (1 - 1e-9))])
    expected = min(21, math.ceil(4 * (1 - sigma) / sigma - 1e-6))
    assert expected == frames
    assert spectrum.smallest_grid(sigma).frames == frames


def test_a_power_law_over_rings_is_cut_alike_in_height_and_width() -> None:
    """Power 100 / r^2 is below the noise at sigma 2/3 from r = 5 on: both sides keep 5 of 12, 10 of 24."""
    rows, columns = torch.meshgrid(torch.arange(12) / 12, torch.arange(24) / 24, indexing="ij")
    ring = (24 * torch.hypot(rows, columns) + 1e-6).floor().clamp(min=1).double()
    coefficients = (20 / ring * (1 - 1e-9)).expand(1, 1, 3, 12, 24)
    spectrum = measure_spectrum([latents_of(coefficients)])
    grid = spectrum.smallest_grid(2 / 3, patch=(1, 1, 1), averaging="radial")
    assert (grid.height, grid.width) == (5, 10)
    grid = spectrum.smallest_grid(2 / 3, averaging="radial")
    assert (grid.height, grid.width) == (6, 10)
    with pytest.raises(ValueError, match="3x12x24 is not a whole number of 1x5x2 patches"):
        spectrum.smallest_grid(2 / 3, patch=(1, 5, 2))


def test_a_first_frame_that_looks_unlike_the_others_is_no_motion() -> None:
    still = noise(1, 4, 1, 6, 6).expand(1, 4, 9, 6, 6).clone()
    still[:, :, 0] = noise(1, 4, 6, 6, seed=1) * 5
    spectrum = measure_spectrum([still])
    assert spectrum.smallest_grid(0.01).frames == 2
    assert spectrum.along("frames")[2:].max() < 1e-20


def test_a_slow_drift_across_the_clip_is_no_high_frequency() -> None:
    """Why not a Fourier transform: it takes the jump back to the start for motion."""
    drift = torch.linspace(-1, 1, 17)[1:]
    later = drift[None, None, :, None, None].expand(1, 1, 16, 2, 2)
    clip = torch.cat([later[:, :, :1], later], dim=2)
    spectrum = measure_spectrum([clip]).along("frames")[1:]
    fourier = torch.fft.rfft(drift.double(), norm="ortho").abs().square()
    assert spectrum[8:].sum() / spectrum.sum() < 2e-4
    assert fourier[4:].sum() / fourier.sum() > 0.1


def test_the_hiding_level_is_where_signal_and_noise_are_equal() -> None:
    power = torch.tensor([0.0, 1e-4, 0.25, 1.0, 9.0, 1e6]).double()
    sigma = hiding_sigma(power)
    torch.testing.assert_close((1 - sigma) ** 2 * power, sigma**2)
    assert sigma[3] == 0.5 and sigma[4] == 0.75


def test_the_joint_criterion_sums_all_that_a_grid_loses() -> None:
    size = LatentSize(4, 4, 4)
    spectrum = measure_spectrum([latents_of(band(size, size)) * 3])
    assert spectrum.lost_over_noise(size, 0.5) == 0
    assert spectrum.lost_over_noise(LatentSize(2, 2, 2), 0.5) == pytest.approx(9)
    assert spectrum.lost_over_noise(LatentSize(4, 4, 2), 0.75) == pytest.approx(1)
    assert spectrum.lost_over_noise(LatentSize(1, 2, 2), 1) == 0
    assert spectrum.lost_over_noise(LatentSize(1, 2, 2), 0) == math.inf
    with pytest.raises(ValueError, match=r"grid 5x4x4 is larger than that of the latents, 4x4x4\."):
        spectrum.lost_over_noise(LatentSize(5, 4, 4), 0.5)


@given(
    sizes, st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["none", "radial", "axis"])
)
def test_more_noise_never_asks_for_a_larger_grid(
    size: LatentSize, seed: int, one: float, other: float, averaging: str
) -> None:
    power = noise(*size.as_tuple(), seed=seed).double().mul(2).exp()
    spectrum = LatentSpectrum(power, 1)
    more, less = (
        spectrum.smallest_grid(sigma, (1, 1, 1), averaging).as_tuple()
        for sigma in sorted((one, other), reverse=True)
    )
    assert all(a <= b for a, b in zip(more, less, strict=True))
    assert spectrum.smallest_grid(1, (1, 1, 1), averaging) == LatentSize(1, 1, 1)
    assert spectrum.smallest_grid(0, (1, 1, 1), averaging) == size


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "got no clip"),
        ([torch.zeros(0, 4, 3, 2, 2)], "got no clip"),
        ([torch.zeros(2, 4, 1, 2, 2)], "clips of one latent frame, expected at least 2"),
        (
            [torch.zeros(2, 4, 3, 2, 2), torch.zeros(2, 4, 3, 2, 4)],
            "got clips of 4 channels, 3x2x4 after 4 channels, 3x2x2",
        ),
        (
            [torch.zeros(2, 4, 3, 2, 2), torch.full((1, 4, 3, 2, 2), math.nan)],
            r"clip 2 \(from 0\) holds infinite or nan",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(batches: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_spectrum(batches)


@pytest.mark.parametrize("sigma", [-0.1, 1.1, math.nan])
def test_what_is_no_noise_level_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="expected a noise level from 0 to 1"):
        LatentSpectrum(torch.ones(2, 2, 2).double(), 1).smallest_grid(sigma)
