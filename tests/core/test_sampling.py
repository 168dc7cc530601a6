import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swd_video.core.flow import add_noise
from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_latents
from swd_video.core.sampling import draw_noise, sample_scalewise
from swd_video.core.schedule import ScaleSchedule, Stage

# beartype looks at a random stage of every schedule that a strategy builds; no draw depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _toward(clip: torch.Tensor, noisy_latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """The velocity of a network that knows the one clip there is."""
    grid = LatentSize(*noisy_latents.shape[2:])
    return (noisy_latents - resize_latents(clip, grid)) / sigma


@st.composite
def schedules(draw: st.DrawFn) -> ScaleSchedule:
    count = draw(st.integers(1, 4))
    levels = draw(st.lists(st.integers(50, 999), min_size=count - 1, max_size=count - 1, unique=True))
    sigmas = [1.0, *(level / 1000 for level in sorted(levels, reverse=True))]
    axes = [sorted(draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))) for _ in range(3)]
    return ScaleSchedule(tuple(map(Stage, sigmas, map(LatentSize, *axes))))


@settings(max_examples=50)
@given(schedules(), st.integers(1, 2))
def test_any_schedule_ends_on_its_last_grid(schedule: ScaleSchedule, batch_size: int) -> None:
    seen: list[tuple[tuple[int, ...], float, int]] = []

    def predict_velocity(noisy_latents: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        seen.append((tuple(noisy_latents.shape), sigma, index))
        return noisy_latents * 0.5

    latents = sample_scalewise(
        predict_velocity,
        schedule,
        batch_size=batch_size,
        channels=3,
        upsample=resize_latents,
        generator=_generator(),
    )
    assert latents.shape == (batch_size, 3, *schedule.target.as_tuple())
    assert latents.isfinite().all()
    assert seen == [
        ((batch_size, 3, *stage.grid.as_tuple()), stage.sigma, index) for index, stage in enumerate(schedule)
    ]


def test_a_perfect_network_gives_the_clip_back(tiny_schedule: ScaleSchedule) -> None:
    clip = torch.randn(2, 4, *tiny_schedule.target.as_tuple(), generator=_generator())
    latents = sample_scalewise(
        lambda noisy_latents, sigma, _: _toward(clip, noisy_latents, sigma),
        tiny_schedule,
        batch_size=2,
        channels=4,
        upsample=resize_latents,
        generator=_generator(1),
    )
    torch.testing.assert_close(latents, clip, rtol=0, atol=1e-5)


def test_clean_latents_are_upsampled_and_only_then_noised(tiny_schedule: ScaleSchedule) -> None:
    inputs: list[torch.Tensor] = []
    clean: list[torch.Tensor] = []

    def predict_velocity(noisy_latents: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        inputs.append(noisy_latents)
        return noisy_latents.sin()

    latents = sample_scalewise(
        predict_velocity,
        tiny_schedule,
        batch_size=1,
        channels=2,
        upsample=resize_latents,
        generator=_generator(5),
        on_stage=lambda index, x0: clean.append(x0),
    )
    replay = _generator(5)
    first = torch.randn(1, 2, *tiny_schedule[0].grid.as_tuple(), generator=replay)
    assert torch.equal(inputs[0], first)
    for index in (1, 2):
        upsampled = resize_latents(clean[index - 1], tiny_schedule[index].grid)
        noise = torch.randn(upsampled.shape, generator=replay)
        assert torch.equal(inputs[index], add_noise(upsampled, noise, tiny_schedule[index].sigma))
    assert torch.equal(clean[-1], latents)


def test_the_gaussian_with_a_known_answer_keeps_its_mean_and_deviation() -> None:
    # Data N(m, s^2) on one grid: E[x0 | noisy] = m + k * (noisy - (1 - sigma) m) with the gain
    # k = (1 - sigma) s^2 / ((1 - sigma)^2 s^2 + sigma^2). Few-step sampling with it keeps the mean, and a stage
    # turns a deviation d of estimates into k * sqrt((1 - sigma)^2 d^2 + sigma^2).
    mean, deviation = 0.5, 2.0
    grid = LatentSize(5, 16, 16)
    schedule = ScaleSchedule(tuple(Stage(sigma, grid) for sigma in (1.0, 0.6, 0.3)))

    def gain(sigma: float) -> float:
        return (1 - sigma) * deviation**2 / ((1 - sigma) ** 2 * deviation**2 + sigma**2)

    def predict_velocity(noisy_latents: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        x0 = mean + gain(sigma) * (noisy_latents - (1 - sigma) * mean)
        return (noisy_latents - x0) / sigma

    latents = sample_scalewise(
        predict_velocity, schedule, batch_size=8, channels=4, upsample=resize_latents, generator=_generator()
    )
    expected = 0.0
    for sigma in (0.6, 0.3):
        expected = gain(sigma) * ((1 - sigma) ** 2 * expected**2 + sigma**2) ** 0.5
    assert latents.mean().item() == pytest.approx(mean, abs=0.02)
    assert latents.std().item() == pytest.approx(expected, rel=0.02)


def test_the_network_alone_is_given_half_precision(tiny_schedule: ScaleSchedule) -> None:
    dtypes: set[torch.dtype] = set()

    def predict_velocity(noisy_latents: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        dtypes.add(noisy_latents.dtype)
        return noisy_latents

    latents = sample_scalewise(
        predict_velocity,
        tiny_schedule,
        batch_size=1,
        channels=2,
        upsample=resize_latents,
        dtype=torch.bfloat16,
        generator=_generator(),
    )
    assert dtypes == {torch.bfloat16} and latents.dtype == torch.float32


def test_a_generator_for_each_clip_makes_clips_independent(tiny_schedule: ScaleSchedule) -> None:
    def sample(seeds: list[int]) -> torch.Tensor:
        return sample_scalewise(
            lambda noisy_latents, sigma, _: noisy_latents.sin(),
            tiny_schedule,
            batch_size=len(seeds),
            channels=2,
            upsample=resize_latents,
            generator=[_generator(seed) for seed in seeds],
        )

    together = sample([3, 4])
    assert torch.equal(together, torch.cat([sample([3]), sample([4])]))
    assert not torch.equal(together[0], together[1])


def test_noise_is_drawn_once_and_only_for_stages_that_follow(tiny_schedule: ScaleSchedule) -> None:
    generator = _generator(2)
    sample_scalewise(
        lambda x, sigma, _: x,
        tiny_schedule,
        batch_size=1,
        channels=1,
        upsample=resize_latents,
        generator=generator,
    )
    replay = _generator(2)
    for grid in tiny_schedule.grids:
        torch.randn(1, 1, *grid.as_tuple(), generator=replay)
    assert torch.equal(torch.randn(4, generator=generator), torch.randn(4, generator=replay))


def test_too_few_generators_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 generators, expected 3"):
        draw_noise((3, 2), generator=[_generator(), _generator()])
