"""Kernel MMDs against closed forms for Gaussians, the definition pair by pair, and finite differences."""

import math
from collections.abc import Callable

import pytest
import torch

from swd_video.losses.kernels import RadialKernel, RationalQuadratic, Rbf, median_distance
from swd_video.losses.mmd import kernel_mmd, linear_mmd
from swd_video.losses.random_features import random_features

Randn = Callable[..., torch.Tensor]
Mmd = Callable[..., float]

ESTIMATORS = ["biased", "unbiased", "paired"]
KERNELS = [
    Rbf((1.5,), "absolute"),
    Rbf((0.5, 1.0, 4.0), "absolute"),
    RationalQuadratic((1.0, 3.0), "absolute", alpha=0.7),
]


def _pair(kernel: RadialKernel) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The kernel of two tokens, as a textbook writes it."""

    def value(a: torch.Tensor, b: torch.Tensor) -> float:
        squared = float((a - b).square().sum())
        scaled = [squared / (2 * s**2) for s in kernel.bandwidths]
        if isinstance(kernel, RationalQuadratic):
            return sum((1 + u / kernel.alpha) ** -kernel.alpha for u in scaled) / len(scaled)
        return sum(math.exp(-u) for u in scaled) / len(scaled)

    return value


def _gaussian_mmd(shift: torch.Tensor, deviation: float, bandwidth: float) -> float:
    """Squared MMD under the RBF kernel between N(0, 1) and N(shift, deviation^2), in as many dimensions as `shift`.

    The kernel's mean over a difference d ~ N(m, v) is (s^2 / (s^2 + v))^(n/2) exp(-|m|^2 / (2 (s^2 + v))).
    """
    n, squared = len(shift), bandwidth**2

    def mean(variance: float, distance: float) -> float:
        return (squared / (squared + variance)) ** (n / 2) * math.exp(-distance / (2 * (squared + variance)))

    across = mean(1 + deviation**2, float(shift.square().sum()))
    return mean(2, 0) + mean(2 * deviation**2, 0) - 2 * across


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("unit", [1, 3])
def test_equals_the_definition_pair_by_pair(
    kernel: RadialKernel, estimator: str, unit: int, randn: Randn, mmd_by_definition: Mmd
) -> None:
    pred, target = randn(0, 2, 9, 4), 1.5 * randn(1, 2, 9, 4) + 0.3
    expected = mmd_by_definition(pred, target, _pair(kernel), estimator, unit)
    assert kernel_mmd(pred, target, kernel, estimator, unit).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_linear_kernel_equals_its_definition_too(
    estimator: str, randn: Randn, mmd_by_definition: Mmd
) -> None:
    pred, target = randn(0, 2, 6, 4), randn(1, 2, 6, 4) + 5
    for unit in (1, 2):
        expected = mmd_by_definition(pred, target, torch.dot, estimator, unit)
        assert linear_mmd(pred, target, estimator, unit).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_sets_of_unequal_size(estimator: str, randn: Randn, mmd_by_definition: Mmd) -> None:
    pred, target, kernel = randn(0, 1, 5, 3), randn(1, 1, 8, 3), KERNELS[1]
    expected = mmd_by_definition(pred, target, _pair(kernel), estimator)
    for tile in (3, 1024):
        assert kernel_mmd(pred, target, kernel, estimator, tile=tile).item() == pytest.approx(
            expected, rel=1e-10
        )


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_pass_gradcheck(kernel: RadialKernel, estimator: str, randn: Randn) -> None:
    pred, target = randn(2, 1, 4, 2).requires_grad_(), (randn(3, 1, 4, 2) + 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: kernel_mmd(x, y, kernel, estimator, 2, tile=3), (pred, target)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_results_and_gradients_do_not_depend_on_the_tile(estimator: str, randn: Randn) -> None:
    pred, target = randn(4, 3, 16, 5), randn(5, 3, 16, 5) + 0.2
    results = []
    for tile in (2, 7, 16, 1024):
        x = pred.clone().requires_grad_()
        loss = kernel_mmd(x, target, Rbf((0.7, 1.4)), estimator, tokens_per_draw=4, tile=tile)
        results.append((loss, *torch.autograd.grad(loss, x)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-10, atol=1e-14)


def test_rbf_mmd_of_two_gaussians_has_its_closed_form() -> None:
    # Quantiles in place of random draws: a sum over them is an integral over the normal distribution.
    quantiles = torch.special.ndtri((torch.arange(48, dtype=torch.float64) + 0.5) / 48)
    normal = torch.cartesian_prod(quantiles, quantiles)[None]
    shift, deviation, bandwidth = torch.tensor([0.6, -0.3], dtype=torch.float64), 1.6, 1.3
    loss = kernel_mmd(normal, deviation * normal + shift, Rbf((bandwidth,), "absolute"))
    assert loss.item() == pytest.approx(_gaussian_mmd(shift, deviation, bandwidth), rel=0.02)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_small_sets_are_biased_upwards_and_the_unbiased_estimator_is_not(kernel: str, randn: Randn) -> None:
    shift, deviation, bandwidth, draws, size = torch.tensor([1.0, 0.5]), 1.4, 1.2, 20_000, 4
    pred, target = randn(8, draws, size, 2), deviation * randn(9, draws, size, 2) + shift

    def estimate(estimator: str, target: torch.Tensor) -> float:
        if kernel == "linear":
            return linear_mmd(pred, target, estimator).item()
        return kernel_mmd(pred, target, Rbf((bandwidth,), "absolute"), estimator).item()

    linear = float(shift.square().sum())
    expected = linear if kernel == "linear" else _gaussian_mmd(shift, deviation, bandwidth)
    assert estimate("unbiased", target) == pytest.approx(expected, rel=0.05)
    assert estimate("paired", target) == pytest.approx(expected, rel=0.05)
    assert estimate("biased", target) > 1.4 * expected
    # Targets noised like their predictions: only `paired` still tells how far the two clouds are apart.
    alike = pred + shift
    apart = linear if kernel == "linear" else _gaussian_mmd(shift, 1.0, bandwidth)
    assert estimate("paired", alike) == pytest.approx(apart, rel=0.05)
    assert estimate("unbiased", alike) < 0.5 * apart


def test_biased_estimate_shrinks_the_spread_of_a_small_set_and_the_unbiased_one_does_not(
    randn: Randn,
) -> None:
    # The gradient by a factor on the predictions, at equal distributions: above 0, the loss asks for less spread.
    pred, target = randn(10, 4000, 4, 2), randn(11, 4000, 4, 2)
    slopes = {}
    for estimator in ("biased", "unbiased"):
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss = kernel_mmd(factor * pred, target, Rbf((1.5,), "absolute"), estimator)
        (slope,) = torch.autograd.grad(loss, factor)
        slopes[estimator] = slope.item()
    assert slopes["biased"] > 0.1
    assert abs(slopes["unbiased"]) < 0.01


def test_a_wide_rational_quadratic_kernel_still_pulls_where_rbf_is_blind(randn: Randn) -> None:
    target = randn(12, 1, 8, 3)
    gradients = []
    for kernel in (Rbf((1.0,), "absolute"), RationalQuadratic((1.0,), "absolute", alpha=0.5)):
        pred = (randn(13, 1, 8, 3) + 30).requires_grad_()
        (gradient,) = torch.autograd.grad(kernel_mmd(pred, target, kernel), pred)
        gradients.append(gradient.mean(dim=(0, 1)))
    assert gradients[0].abs().max() < 1e-12
    assert gradients[1].min() > 1e-5  # downhill is towards the target on every axis


def test_rational_quadratic_becomes_rbf_for_large_alpha(randn: Randn) -> None:
    pred, target = randn(14, 1, 8, 3), randn(15, 1, 8, 3) + 1
    limit = kernel_mmd(pred, target, RationalQuadratic((1.2,), alpha=1e6)).item()
    assert limit == pytest.approx(kernel_mmd(pred, target, Rbf((1.2,))).item(), rel=1e-5)


def test_median_bandwidth_follows_the_scale_and_takes_no_gradient(randn: Randn) -> None:
    pred, target = randn(16, 2, 10, 4), randn(17, 2, 12, 4) + 1
    for x, y, median in zip(pred, target, median_distance(pred, target), strict=True):
        assert median.item() == pytest.approx(torch.pdist(torch.cat([x, y])).median().item(), rel=1e-10)
    loss = kernel_mmd(pred, target, Rbf((0.5, 2.0)))
    assert kernel_mmd(1000 * pred, 1000 * target, Rbf((0.5, 2.0))).item() == pytest.approx(
        loss.item(), rel=1e-9
    )
    # With the bandwidth as a constant the gradient is that of the same bandwidth in absolute units.
    x = pred[:1].clone().requires_grad_()
    (by_median,) = torch.autograd.grad(kernel_mmd(x, target[:1], Rbf((1.0,))), x)
    absolute = Rbf((median_distance(pred[:1], target[:1]).item(),), "absolute")
    (by_number,) = torch.autograd.grad(kernel_mmd(x, target[:1], absolute), x)
    torch.testing.assert_close(by_median, by_number)


def test_sets_that_coincide_give_a_finite_gradient() -> None:
    tokens = torch.full((2, 5, 3), 7.0, requires_grad=True)
    loss = kernel_mmd(tokens, torch.full((2, 5, 3), 7.0), Rbf())
    (gradient,) = torch.autograd.grad(loss, tokens)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_float32_far_from_the_origin_is_as_good_as_float64(randn: Randn) -> None:
    # A loud channel far from zero, as transformers have them.
    pred, target = randn(18, 2, 200, 32), 1.1 * randn(19, 2, 200, 32) + 0.1
    for x in (pred, target):
        x[..., 3] += 1000
    rounded = pred.float().requires_grad_()
    exact = pred.float().double().requires_grad_()
    loss = kernel_mmd(exact, target.float().double(), Rbf())
    near = kernel_mmd(rounded, target.float(), Rbf())
    assert near.dtype == torch.float32
    assert near.item() == pytest.approx(loss.item(), rel=1e-5)
    (gradient,), (near_gradient,) = torch.autograd.grad(loss, exact), torch.autograd.grad(near, rounded)
    assert (near_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_autocast_does_not_reach_the_distances(randn: Randn) -> None:
    pred, target = randn(20, 1, 20, 8).float(), randn(21, 1, 20, 8).float()
    expected = kernel_mmd(pred, target, Rbf())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernel_mmd(pred, target, Rbf()), expected)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_random_features_are_right_on_average_and_their_error_falls_with_their_number(
    estimator: str, randn: Randn
) -> None:
    kernel = Rbf((0.5, 1.0))
    pred, target = randn(22, 1, 40, 6), 1.2 * randn(23, 1, 40, 6) + 0.3
    exact = kernel_mmd(pred, target, kernel, estimator).item()

    def errors(count: int) -> torch.Tensor:
        values = []
        for seed in range(40):
            generator = torch.Generator().manual_seed(seed)
            values.append(linear_mmd(*random_features(pred, target, kernel, count, generator), estimator))
        return (torch.stack(values) - exact) / exact

    few, many = errors(64), errors(1024)
    assert few.square().mean().sqrt() < 0.35
    assert 2.5 < (few.square().mean() / many.square().mean()).sqrt() < 6.5  # 4 on average: sqrt(1024 / 64)
    assert many.mean().abs() < 0.02


def test_random_features_have_the_kernels_gradient(randn: Randn) -> None:
    pred, target, kernel = randn(24, 1, 30, 5).requires_grad_(), randn(25, 1, 30, 5) + 0.5, Rbf((1.0,))
    (exact,) = torch.autograd.grad(kernel_mmd(pred, target, kernel), pred)
    points = random_features(pred, target, kernel, 50_000, torch.Generator().manual_seed(0))
    (near,) = torch.autograd.grad(linear_mmd(*points), pred)
    assert (near - exact).norm() < 0.1 * exact.norm()
