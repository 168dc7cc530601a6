import torch
from torch import Tensor

from swd_video.core.likeness import laplacian_energy, motion_error, psnr_db, ssim


def make_pair() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    picture = torch.sin(0.7 * x + 0.3 * y)
    other = 0.8 * picture + 0.1 * torch.cos(0.5 * y)
    return tuple(plane.expand(2, 3, 4, 24, 32) for plane in (other, picture))


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    # peak_signal_noise_ratio(..., data_range=2); structural_similarity(..., data_range=2, gaussian_weights=True,
    # sigma=1.5, use_sample_covariance=False, full=True), where its window fits.
    torch.testing.assert_close(psnr_db(*make_pair()), torch.full((2,), 22.006336), rtol=1e-4, atol=0)
    torch.testing.assert_close(ssim(*make_pair()), torch.full((2,), 0.8507173), rtol=1e-4, atol=0)
    _, picture = make_pair()
    assert torch.allclose(ssim(picture, picture), torch.ones(2))


def test_each_clip_is_measured_by_itself() -> None:
    decoded, pixels = (clips.clone() for clips in make_pair())
    decoded[1] = pixels[1]
    assert psnr_db(decoded, pixels)[0].isfinite()
    assert psnr_db(decoded, pixels)[1].isinf()
    assert ssim(decoded, pixels)[0] < 0.99 < ssim(decoded, pixels)[1]


def test_detail_is_the_mean_absolute_laplacian() -> None:
    spot = torch.zeros(1, 3, 2, 5, 5)
    spot[..., 2, 2] = 1
    # Of nine inner places one is -4 and four are 1.
    torch.testing.assert_close(laplacian_energy(spot), torch.tensor([8 / 9]))
    assert laplacian_energy(spot * 0.5) == laplacian_energy(spot) / 2


def test_flicker_counts_and_a_constant_shift_does_not() -> None:
    _, pixels = make_pair()
    torch.testing.assert_close(motion_error(pixels + 0.1, pixels), torch.zeros(2), rtol=0, atol=1e-6)
    flicker = torch.tensor([0.1, -0.1, 0.1, -0.1]).view(1, 1, 4, 1, 1)
    torch.testing.assert_close(motion_error(pixels + flicker, pixels), torch.full((2,), 0.2))
