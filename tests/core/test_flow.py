import pytest
import torch

from swd_video.core.flow import (
    add_noise,
    convert_sigma,
    fit_shift,
    shift_sigma,
    velocity_from_x0,
    velocity_target,
    x0_from_velocity,
)


def _pair(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 2, 4, 4)
    return (
        torch.randn(shape, generator=generator, dtype=dtype),
        torch.randn(shape, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize("sigma", [1.0, 0.7, 0.001, torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)])
def test_the_true_velocity_leads_back_to_the_data(sigma: float | torch.Tensor) -> None:
    x0, noise = _pair()
    noisy_latents = add_noise(x0, noise, sigma)
    velocity = velocity_target(x0, noise)
    torch.testing.assert_close(x0_from_velocity(noisy_latents, velocity, sigma), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(velocity_from_x0(noisy_latents, x0, sigma), velocity, rtol=0, atol=1e-9)


def test_the_ends_are_data_and_noise() -> None:
    x0, noise = _pair(torch.float32)
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1.0), noise)


def test_each_clip_has_its_own_sigma() -> None:
    x0, noise = _pair(torch.float32)
    sigmas = [0.9, 0.4, 0.2]
    together = add_noise(x0, noise, torch.tensor(sigmas))
    alone = [add_noise(x0[i : i + 1], noise[i : i + 1], sigma) for i, sigma in enumerate(sigmas)]
    assert torch.equal(together, torch.cat(alone))


def test_half_precision_is_computed_in_float32() -> None:
    x0, noise = _pair(torch.float32)
    low = add_noise(x0.bfloat16(), noise.bfloat16(), 0.37)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, add_noise(x0.bfloat16().float(), noise.bfloat16().float(), 0.37).bfloat16())


def test_a_half_precision_velocity_does_not_narrow_the_latents() -> None:
    noisy_latents, velocity = _pair(torch.float32)
    assert x0_from_velocity(noisy_latents, velocity.bfloat16(), 0.5).dtype == torch.float32


def test_shifting_keeps_the_ends_and_raises_the_middle() -> None:
    assert shift_sigma(0.0, 3.0) == 0 and shift_sigma(1.0, 3.0) == 1
    assert shift_sigma(0.5, 3.0) == pytest.approx(0.75)
    assert shift_sigma(0.5, 1.0) == 0.5
    sigmas = torch.linspace(0, 1, 11)
    shifted = shift_sigma(sigmas, 5.0)
    assert (shifted.diff() > 0).all() and (shifted[1:-1] > sigmas[1:-1]).all()


@pytest.mark.parametrize(("shift", "levels"), [(7.0, (0.953, 0.867, 0.779)), (25.0, (0.986, 0.959, 0.927))])
def test_noise_levels_of_another_shift_stand_at_the_same_steps(
    shift: float, levels: tuple[float, ...]
) -> None:
    wan = (0.896, 0.737, 0.602)
    for sigma, expected in zip(wan, levels, strict=True):
        converted = convert_sigma(sigma, 3.0, shift)
        assert converted == pytest.approx(expected, abs=5.1e-4)
        # Both stand at one step: what even step gives the one gives the other.
        step = convert_sigma(sigma, 3.0, 1.0)
        assert shift_sigma(step, 3.0) == pytest.approx(sigma) and shift_sigma(step, shift) == pytest.approx(
            converted
        )
        assert convert_sigma(converted, shift, 3.0) == pytest.approx(sigma)
    assert convert_sigma(1.0, 3.0, shift) == 1 and convert_sigma(0.0, 3.0, shift) == 0


def test_copied_levels_leave_too_few_of_a_teachers_steps() -> None:
    steps = torch.arange(1, 51) / 50
    below = {shift: int((shift_sigma(steps, shift) < 0.602).sum()) for shift in (3.0, 7.0, 25.0)}
    assert below == {3.0: 16, 7.0: 8, 25.0: 2}
    for shift in (7.0, 25.0):
        assert int((shift_sigma(steps, shift) < convert_sigma(0.602, 3.0, shift)).sum()) == 16


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.05, 25.0])
def test_a_shift_is_found_in_its_own_schedule(shift: float) -> None:
    assert fit_shift(shift_sigma(torch.arange(1, 301) / 300, shift)) == pytest.approx(shift, rel=1e-5)
