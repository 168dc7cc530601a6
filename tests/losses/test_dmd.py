"""Distribution matching where teacher and critic are formulas."""

import torch

from swd_video.core.flow import add_noise
from swd_video.losses.dmd import distribution_matching_loss


def _denoise(noisy: torch.Tensor, sigma: torch.Tensor, mean: float, deviation: float) -> torch.Tensor:
    """E[x0 | noisy] for x0 ~ N(mean, deviation^2)."""
    share, variance = 1 - sigma, deviation**2
    gain = share * variance / (share**2 * variance + sigma**2)
    return mean + gain * (noisy - share * mean)


def test_a_student_ends_with_the_teachers_mean_and_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_deviation = torch.tensor(-1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_deviation], lr=0.03)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 600)
        predicted = mean + log_deviation.exp() * torch.randn(256, 8, generator=generator)
        sigma = 0.02 + 0.96 * torch.rand(256, 1, generator=generator)
        noisy = add_noise(predicted.detach(), torch.randn(256, 8, generator=generator), sigma.squeeze(1))
        teacher_x0 = _denoise(noisy, sigma, mean=2.0, deviation=0.7)
        critic_x0 = _denoise(noisy, sigma, mean.item(), log_deviation.exp().item())
        optimizer.zero_grad()
        distribution_matching_loss(predicted, teacher_x0, critic_x0).backward()
        optimizer.step()
    assert abs(mean.item() - 2.0) < 0.05
    assert abs(log_deviation.exp().item() - 0.7) < 0.05


def test_the_gradient_is_the_difference_of_critic_and_teacher_over_the_distance() -> None:
    predicted = torch.tensor([[1.0, 3.0], [0.0, 8.0]], requires_grad=True)
    teacher, critic = torch.tensor([[2.0, 0.0], [4.0, 4.0]]), torch.tensor([[2.0, 4.0], [2.0, 0.0]])
    distribution_matching_loss(predicted, teacher, critic).backward()
    # Mean distances to the teacher are 2 and 4; the mean square is over 4 numbers.
    expected = torch.tensor([[0.0, 4.0], [-2.0, -4.0]]) / torch.tensor([[2.0], [4.0]]) / 4
    assert torch.allclose(predicted.grad, expected)


def test_nothing_pulls_where_critic_and_teacher_agree() -> None:
    predicted = torch.randn(2, 3, requires_grad=True)
    seen = torch.randn(2, 3)
    distribution_matching_loss(predicted, seen, seen.clone()).backward()
    assert not predicted.grad.any()
