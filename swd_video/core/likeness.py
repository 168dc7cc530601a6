"""How like an original a decoded clip is, in the figures that decoders are compared by."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Pixels = Float[Tensor, "batch 3 frames height width"]

_SIGMA, _RADIUS = 1.5, 5


def psnr_db(decoded: Pixels, pixels: Pixels) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio of each clip of pixels in [-1, 1], in decibels; infinite where they are equal."""
    error = (decoded - pixels).square().mean(dim=(1, 2, 3, 4))
    return 10 * torch.log10(4 / error)


def ssim(decoded: Pixels, pixels: Pixels) -> Float[Tensor, " batch"]:
    """Structural similarity of each clip: the mean over frames, colours and all places where the window fits.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), with its
    Gaussian window of 11x11 and deviation 1.5, k1 = 0.01 and k2 = 0.03.
    """
    window = torch.exp(
        -torch.arange(-_RADIUS, _RADIUS + 1.0, device=pixels.device).square() / (2 * _SIGMA**2)
    )
    window = window / window.sum()

    def mean(x: Tensor) -> Tensor:
        flat = x.flatten(0, 2).unsqueeze(1)
        return functional.conv2d(functional.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    a, b = decoded.float().transpose(1, 2), pixels.float().transpose(1, 2)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    # Pixels span 2.
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return likeness.reshape(len(pixels), -1).mean(dim=1)


def laplacian_energy(pixels: Pixels) -> Float[Tensor, " batch"]:
    """Mean absolute Laplacian of the grey frames of each clip: how much fine detail there is; soft ones have less.

    Grey is (R + G + B) / 3, and the Laplacian the sum of the four neighbours less four times the place itself.
    """
    grey = pixels.float().mean(dim=1)
    inner = grey[:, :, 1:-1, 1:-1]
    around = grey[:, :, :-2, 1:-1] + grey[:, :, 2:, 1:-1] + grey[:, :, 1:-1, :-2] + grey[:, :, 1:-1, 2:]
    return (around - 4 * inner).abs().mean(dim=(1, 2, 3))


def motion_error(decoded: Pixels, pixels: Pixels) -> Float[Tensor, " batch"]:
    """Mean absolute error of the differences between neighbouring frames of each clip: flicker, and false movement."""
    return (decoded.diff(dim=2) - pixels.diff(dim=2)).abs().mean(dim=(1, 2, 3, 4))
