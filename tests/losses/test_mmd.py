"""The MMD losses against closed forms and against the definition with an explicit kernel matrix."""

import pytest
import torch

from swd_video.losses.kernels import Rbf
from swd_video.losses.mmd import Estimator, linear_mmd, pseudo_huber_mmd
from swd_video.losses.random_features import random_features


def _tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_linear_mmd_is_the_mmd_of_the_dot_product_kernel() -> None:
    pred, target = _tokens(0, 3, 7, 5), _tokens(1, 3, 11, 5)
    per_clip = []
    for x, y in zip(pred, target, strict=True):
        per_clip.append((x @ x.T).mean() + (y @ y.T).mean() - 2 * (x @ y.T).mean())
    assert linear_mmd(pred, target).item() == pytest.approx(torch.stack(per_clip).mean().item(), rel=1e-12)


def test_linear_mmd_of_two_gaussians_is_the_squared_distance_of_their_means() -> None:
    shift = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    pred, target = _tokens(2, 1, 200_000, 4), 3 * _tokens(3, 1, 200_000, 4) + shift
    assert linear_mmd(pred, target).item() == pytest.approx(shift.square().sum().item(), rel=0.02)


def test_clips_are_compared_one_by_one_and_not_as_a_pool() -> None:
    pred = torch.tensor([[[1.0]], [[-1.0]]])
    target = torch.tensor([[[-1.0]], [[1.0]]])
    assert linear_mmd(pred, target).item() == 4.0
    assert linear_mmd(pred, target.flip(0)).item() == 0.0


def test_both_are_blind_to_the_order_of_tokens_and_zero_on_equal_sets() -> None:
    pred = _tokens(4, 2, 9, 6)
    for loss in (linear_mmd, pseudo_huber_mmd):
        assert loss(pred, pred).item() == 0.0
        assert loss(pred, pred[:, torch.randperm(9)]).item() == pytest.approx(0.0, abs=1e-12)


def test_pseudo_huber_is_quadratic_near_zero_and_absolute_far_away() -> None:
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    small, large, c = 1e-5, 10.0, 1e-3
    assert pseudo_huber_mmd(zero + small, zero, c).item() == pytest.approx(small**2 / (2 * c), rel=1e-3)
    assert pseudo_huber_mmd(zero + large, zero, c).item() == pytest.approx(large - c, rel=1e-6)


def test_pseudo_huber_gradient_is_finite_at_zero() -> None:
    pred = torch.zeros(1, 2, 3, requires_grad=True)
    pseudo_huber_mmd(pred, torch.zeros(1, 2, 3)).backward()
    assert pred.grad is not None and torch.equal(pred.grad, torch.zeros(1, 2, 3))


def test_half_precision_features_are_averaged_in_float32() -> None:
    # In bfloat16 a running sum of 4096 ones stops at 256; the mean must still be 1.
    tokens = torch.ones(1, 4096, 2, dtype=torch.bfloat16)
    loss = linear_mmd(tokens, torch.zeros_like(tokens))
    assert loss.dtype == torch.float32
    assert loss.item() == 2.0


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
def test_linear_gradients_pass_gradcheck(estimator: Estimator) -> None:
    pred, target = _tokens(6, 2, 4, 3).requires_grad_(), (_tokens(7, 2, 4, 3) + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: linear_mmd(x, y, estimator, 2), (pred, target))


def test_pseudo_huber_gradients_pass_gradcheck() -> None:
    # Near the bend, so that neither branch alone would do.
    pred, target = _tokens(8, 2, 4, 3).requires_grad_(), (_tokens(9, 2, 4, 3) + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: pseudo_huber_mmd(x, y, 0.7), (pred, target))


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "paired"])
def test_random_features_pass_gradcheck(estimator: Estimator) -> None:
    kernel = Rbf((0.8, 1.6), "absolute")  # medians count as constants, which gradcheck would see change

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        points = random_features(x, y, kernel, 4, torch.Generator().manual_seed(0))
        return linear_mmd(*points, estimator, 2)

    pred, target = _tokens(10, 2, 4, 3).requires_grad_(), (_tokens(11, 2, 4, 3) + 1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (pred, target))
