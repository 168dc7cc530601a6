"""The training pair, and a single optimizer step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swd_video.core.flow import add_noise
from swd_video.core.resize import resize_latents
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig
from swd_video.training.finite import NonFiniteError
from swd_video.training.step import Stepper, training_pair

MakeConfig = Callable[..., DistillConfig]


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _latents(schedule: ScaleSchedule) -> dict:
    return {grid: _randn(2, 4, *grid.as_tuple(), seed=i) for i, grid in enumerate(schedule.distinct_grids)}


def _losses(stepper: Stepper, step: int, part: int = 0) -> list[torch.Tensor]:
    return [stepper.loss(batch) for batch in stepper.micro_batches(step, part)]


def test_the_first_stage_sees_pure_noise(tiny_schedule: ScaleSchedule) -> None:
    latents = _latents(tiny_schedule)
    noise = _randn(2, 4, *tiny_schedule[0].grid.as_tuple(), seed=9)
    noisy, target = training_pair(latents, tiny_schedule, 0, noise, resize_latents)
    assert torch.equal(noisy, noise)
    assert torch.equal(target, latents[tiny_schedule[0].grid])


def test_later_stages_see_what_sampling_would_show_them(tiny_schedule: ScaleSchedule) -> None:
    # A student that always hits the true latents: every stage of sampling must then see its training input.
    latents = _latents(tiny_schedule)
    seen, noises = [], []
    generator = torch.Generator().manual_seed(3)

    def oracle(noisy: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        seen.append(noisy)
        return (noisy - latents[tiny_schedule[index].grid]) / sigma

    sample_scalewise(
        oracle, tiny_schedule, batch_size=2, channels=4, upsample=resize_latents, generator=generator
    )
    generator.manual_seed(3)
    for stage in tiny_schedule:
        noises.append(torch.randn(2, 4, *stage.grid.as_tuple(), generator=generator))
    for index, noise in enumerate(noises):
        noisy, _ = training_pair(latents, tiny_schedule, index, noise, resize_latents)
        torch.testing.assert_close(noisy, seen[index], rtol=0, atol=1e-5)


def test_later_stages_upsample_before_they_noise(tiny_schedule: ScaleSchedule) -> None:
    latents = _latents(tiny_schedule)
    stage = tiny_schedule[2]
    noise = _randn(2, 4, *stage.grid.as_tuple(), seed=9)
    noisy, target = training_pair(latents, tiny_schedule, 2, noise, resize_latents)
    upsampled = resize_latents(latents[tiny_schedule[1].grid], stage.grid)
    assert torch.equal(noisy, add_noise(upsampled, noise, stage.sigma))
    assert torch.equal(target, latents[stage.grid])


def test_a_group_has_one_prompt_and_noise_of_its_own_for_each_clip(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(mmd=[{"join": "tokens"}], parts={"group": 2}, batch_size=4)
    stepper = build_run(config, tmp_path / "run").stepper
    latents, prompts = [], []

    def watch(module: torch.nn.Module, args: tuple, kwargs: dict[str, torch.Tensor]) -> None:
        latents.append(kwargs["hidden_states"])
        prompts.append(kwargs["encoder_hidden_states"])

    stepper.networks.student.register_forward_pre_hook(watch, with_kwargs=True)
    for step in range(4):
        _losses(stepper, step)
    for noisy, prompt in zip(latents, prompts, strict=True):
        assert torch.equal(prompt[::2], prompt[1::2])
        assert not torch.equal(prompt[0], prompt[2])
        assert all(not torch.equal(a, b) for a, b in zip(noisy[::2], noisy[1::2], strict=True))
    assert any(not torch.equal(prompt, prompts[0]) for prompt in prompts)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("kernel", ["linear", "pseudo_huber"])
def test_a_few_steps_reduce_the_loss(kind: str, kernel: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(kind, mmd=[{"kernel": {"kind": kernel}}], steps=30, lr=1e-2, batch_size=4)
    stepper = build_run(config, tmp_path / "run").stepper

    @torch.no_grad()
    def held_out_loss() -> float:
        return sum(sum(_losses(stepper, 1000 + number)).item() for number in range(9))

    before = held_out_loss()
    for step in range(30):
        stepper.take_step(step)
    assert held_out_loss() < 0.8 * before


def test_a_step_is_the_mean_over_its_stages(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(batch_size=6, stages_per_step=3, max_grad_norm=None)
    stepper = build_run(config, tmp_path / "run").stepper
    parameters = list(stepper.networks.trainable_parameters().values())
    losses = torch.stack([loss for part in range(3) for loss in _losses(stepper, 0, part)])
    expected = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
    norm = torch.stack([grad.norm() for grad in expected if grad is not None]).norm().item()
    report = stepper.take_step(0)
    assert report.grad_norm == pytest.approx(norm, rel=1e-4)
    assert [loss for _, loss, _ in report.stages] == pytest.approx(losses.tolist())
    assert report.losses == {"mmd": pytest.approx(losses.mean().item())}
    assert len({stage for stage, _, _ in report.stages}) > 1  # stages are drawn for each part


ALL_LOSSES: dict[str, Any] = {
    "dmd": {"critic_rank": 2, "guidance_scale": 2.0, "data_share": 0.5, "scale_adapted": True},
    "gan": {},
    "group": 2,
}
GROUPS: list[dict[str, Any]] = [
    {"kernel": {"kind": "rbf"}, "join": "means"},
    {"kernel": {"kind": "rbf", "random_features": 8}, "tokens": "frame"},
]


def test_the_size_of_a_pass_changes_no_loss(make_config: MakeConfig, tmp_path: Path) -> None:
    reports = []
    for micro in (None, 4, 2):
        config = make_config(
            "lora", mmd=GROUPS, parts=ALL_LOSSES, batch_size=8, stages_per_step=2, micro_batch_size=micro
        )
        stepper = build_run(config, tmp_path / "run").stepper
        assert len(stepper.micro_batches(0, 0)) == 4 // (micro or 4)
        reports.append([stepper.take_step(step) for step in range(3)])
    for other in reports[1:]:
        for left, right in zip(reports[0], other, strict=True):
            assert right.losses == pytest.approx(left.losses, rel=1e-4)
            assert right.learners == pytest.approx(left.learners, rel=1e-4)
            assert right.grad_norm == pytest.approx(left.grad_norm, rel=1e-3)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"batch_size": 6, "micro_batch_size": 4},
            r"train\.micro_batch_size: 4 does not .* one of 1, 2, 3, 6",
        ),
        ({"batch_size": 6, "stages_per_step": 4}, r"train\.batch_size: 6 clips are not a whole number of"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(
    train: dict[str, int], message: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build_run(make_config(**train), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_learning_rate_rises_over_the_warmup(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(lr=1e-3, lr_warmup_steps=4, optimizer={"kind": "muon", "adamw_lr": 2e-3})
    stepper = build_run(config, tmp_path / "run").stepper
    rates = []
    for step in range(6):
        stepper.take_step(step)
        rates.append([group["lr"] for optimizer in stepper.optimizers for group in optimizer.param_groups])
    shares = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rates == [pytest.approx([1e-3 * share, 2e-3 * share]) for share in shares]


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    stepper = build_run(make_config(), tmp_path / "run").stepper
    parameters = stepper.networks.trainable_parameters()
    with torch.no_grad():
        parameters["proj_out.bias"].fill_(float("nan"))
    before = {name: weight.clone() for name, weight in parameters.items()}
    with pytest.raises(
        NonFiniteError,
        match=r"step 0, stage \d: the loss mmd is nan; stopped before the optimizer\. Nothing has been trained yet",
    ):
        stepper.take_step(0)
    for name, weight in parameters.items():
        assert torch.equal(weight.nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_a_gradient_that_is_not_finite_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    stepper = build_run(make_config(), tmp_path / "run").stepper
    parameters = stepper.networks.trainable_parameters()
    parameters["proj_out.bias"].register_hook(lambda gradient: gradient * float("inf"))
    before = {name: weight.clone() for name, weight in parameters.items()}
    with pytest.raises(
        NonFiniteError, match=r"step 0: the norm of the student's gradient is .* in proj_out\.bias;"
    ):
        stepper.take_step(0)
    assert all(torch.equal(weight, before[name]) for name, weight in parameters.items())


def test_a_learner_that_is_not_finite_stops_before_its_optimizer(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    stepper = build_run(make_config(parts={"gan": {}}), tmp_path / "run").stepper
    (discriminator,) = stepper.learners
    weight = next(iter(discriminator.parameters.values()))
    weight.register_hook(lambda gradient: gradient * float("nan"))
    before = weight.clone()
    stepper.objectives = {"mmd": stepper.objectives["mmd"]}
    with pytest.raises(
        NonFiniteError, match=r"step 0: the norm of the discriminator's gradient is nan, first in 0"
    ):
        stepper.take_step(0)
    assert torch.equal(weight, before)


def test_its_own_inputs_are_what_sampling_gives_before(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, torch.Tensor | None]] = []

    def watch(latents: dict, schedule: ScaleSchedule, index: int, *rest: Any) -> Any:
        seen.append((index, rest[2]))
        return training_pair(latents, schedule, index, *rest)

    monkeypatch.setattr("swd_video.training.step.training_pair", watch)
    stepper = build_run(make_config(backward_simulation=0.5, parts={"dmd": {}}), tmp_path / "run").stepper
    batches = [stepper.micro_batches(step, 0)[0] for step in range(24)]
    for batch in batches:
        stepper.predict(batch)
    own = [previous for index, previous in seen if index and previous is not None]
    assert all(previous is None for index, previous in seen if index == 0)
    assert 0 < len(own) < sum(index > 0 for index, _ in seen)
    assert not any(previous.requires_grad for previous in own)

    step = next(step for step, (_, previous) in enumerate(seen) if previous is not None)
    index, previous = seen[step]
    embeds = stepper.predict(batches[step]).prompt_embeds
    clips: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        sample_scalewise(
            lambda latents, _, stage: stepper.networks.predict_velocity(
                latents, stepper.schedule[stage], embeds
            ),
            stepper.schedule,
            batch_size=len(embeds),
            channels=4,
            upsample=resize_latents,
            generator=stepper.draws("own noise", batches[step]).generators,
            on_stage=clips.__setitem__,
        )
    assert previous is not None and torch.equal(previous, clips[index - 1])
