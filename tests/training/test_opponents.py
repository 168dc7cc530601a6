"""Critic and discriminator: who is trained on what, and runs with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

from swd_video.config import ConfigError
from swd_video.core.randomness import SampleDraws
from swd_video.models.wan import WanModel
from swd_video.objectives.dmd import Critic, DmdObjective, NoiseRange
from swd_video.objectives.gan import HEADS, Discriminator, GanObjective
from swd_video.objectives.learners import ClipPair
from swd_video.objectives.networks import Networks
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.loop import train
from swd_video.training.step import StepReport

MakeConfig = Callable[..., DistillConfig]
ADVERSARIES: dict[str, Any] = {"dmd": {"critic_rank": 2, "guidance_scale": 2.0, "data_share": 0.5}, "gan": {}}


def _roles(kind: str, pipe: WanPipeline) -> Networks:
    model = WanModel.from_pipeline(pipe)
    return (
        Networks.with_copy(model) if kind == "full" else Networks.with_lora(model, 4, ("to_q", "ffn.net.2"))
    )


def _clips() -> ClipPair:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 2, 4, 3, 4, 4, generator=generator)
    return ClipPair(predicted.requires_grad_(), target, torch.randn(2, 48, 16, generator=generator))


@pytest.fixture(params=["full", "lora"])
def networks(request: pytest.FixtureRequest, tiny_wan_pipe: WanPipeline) -> Networks:
    return _roles(request.param, tiny_wan_pipe)


def _gradients(parameters: dict[str, torch.nn.Parameter]) -> list[bool]:
    return [weight.grad is not None and bool(weight.grad.any()) for weight in parameters.values()]


def test_a_critic_starts_as_the_teacher_and_learns_alone(networks: Networks) -> None:
    clips, noise = _clips(), NoiseRange(0.02, 0.98)
    student = dict(networks.trainable_parameters())
    before = networks.predict_velocity(clips.target_x0, 0.5, clips.prompt_embeds)
    critic = Critic(networks, 2, ("to_q", "to_v"), 1e-2, noise)

    assert networks.trainable_parameters().keys() == student.keys()
    assert not critic.parameters.keys() & student.keys() or networks.student is not networks.model.transformer
    objective = DmdObjective(noise, 1.0, clips.prompt_embeds[:1])
    assert objective(networks, clips, SampleDraws(range(2), 1)).item() == 0, (
        "teacher and critic are one still"
    )

    losses = []
    for _ in range(30):
        critic.optimizer.zero_grad()
        loss = critic.loss(networks, clips.detached(), SampleDraws(range(2), 2))
        loss.backward()
        assert any(_gradients(critic.parameters)) and not any(_gradients(student))
        critic.optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    assert torch.equal(networks.predict_velocity(clips.target_x0, 0.5, clips.prompt_embeds), before), (
        "the student is what it was"
    )
    objective(networks, clips, SampleDraws(range(2), 1)).backward()
    assert clips.predicted_x0.grad is not None and clips.predicted_x0.grad.any()
    critic.optimizer.zero_grad()
    assert not any(_gradients(student))


def test_the_teachers_score_comes_from_the_data_where_asked(tiny_wan_pipe: WanPipeline) -> None:
    networks, clips, noise = _roles("full", tiny_wan_pipe), _clips(), NoiseRange(0.4, 0.6)
    Critic(networks, 2, ("to_q",), 1e-2, noise)
    losses = [
        DmdObjective(noise, 1.0, clips.prompt_embeds[:1], share)(
            networks, clips, SampleDraws(range(2), 1)
        ).item()
        for share in (0.0, 1.0)
    ]
    assert losses[0] == 0 and losses[1] > 0


@pytest.mark.parametrize("head", HEADS)
def test_a_discriminator_learns_to_tell_and_the_student_to_deceive(head: str, networks: Networks) -> None:
    clips = _clips()
    noise = NoiseRange(0.0, 0.1)
    discriminator = Discriminator(head, (0, 2), 24, 16, 1e-2, noise, 3, torch.device("cpu"))
    losses = []
    for number in range(40):
        discriminator.optimizer.zero_grad()
        loss = discriminator.loss(networks, clips.detached(), SampleDraws(range(2), number))
        loss.backward()
        discriminator.optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

    objective, x0 = GanObjective(discriminator), clips.predicted_x0
    before = objective(networks, clips, SampleDraws(range(2), 0))
    before.backward()
    assert x0.grad is not None and not any(_gradients(networks.trainable_parameters()))
    moved = ClipPair(x0.detach() - 0.5 * x0.grad / x0.grad.abs().mean(), clips.target_x0, clips.prompt_embeds)
    assert objective(networks, moved, SampleDraws(range(2), 0)) < before


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_stopped_run_ends_with_the_same_student(
    kind: str, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    often = {"dmd": {**ADVERSARIES["dmd"], "critic_updates": 2}, "gan": {"objective": "softplus"}}
    parts = ADVERSARIES if kind == "full" else often
    config = make_config(kind, parts=parts, batch_size=4, stages_per_step=2)
    reports: list[StepReport] = []
    train(build_run(config, tmp_path / "straight"), on_step=lambda _, report: reports.append(report))
    assert "warning: loss.dmd: a teacher that was not trained on the small grids" in capsys.readouterr().err
    assert all(set(report.learners) == {"critic", "discriminator"} for report in reports)

    def stop(done: int, report: StepReport) -> None:
        if done == 3:
            raise _Stopped

    with pytest.raises(_Stopped):
        train(build_run(config, tmp_path / "stopped"), on_step=stop)
    train(build_run(config, tmp_path / "stopped"))
    weights = [
        sorted((tmp_path / run / "student").rglob("*.safetensors"))[0].read_bytes()
        for run in ("straight", "stopped")
    ]
    assert weights[0] == weights[1]


def test_critic_and_discriminator_learn_as_often_as_asked(make_config: MakeConfig, tmp_path: Path) -> None:
    often = {
        "dmd": {**ADVERSARIES["dmd"], "critic_updates": 3},
        "gan": {"objective": "softplus", "updates": 2},
    }
    stepper = build_run(make_config(parts=often, steps=3), tmp_path / "run").stepper
    seen: dict[str, list[ClipPair]] = {}
    for learner in stepper.learners:

        def note(*arguments: Any, name: str = learner.name, loss: Any = learner.loss) -> torch.Tensor:
            seen.setdefault(name, []).append(arguments[1])
            return loss(*arguments)

        learner.loss = note  # type: ignore[method-assign]
    student = {name: weight.clone() for name, weight in stepper.networks.trainable_parameters().items()}
    report = stepper.take_step(0)
    counts = {
        learner.name: learner.optimizer.state_dict()["state"][0]["step"] for learner in stepper.learners
    }
    assert counts == {"critic": 3, "discriminator": 2}
    assert [len(seen[name]) for name in ("critic", "discriminator")] == [3, 2]
    # The first round is the step's own, later ones are other clips that the student makes by now, the same for both.
    assert all(left is right for left, right in zip(seen["critic"], seen["discriminator"], strict=False))
    first, second, third = (clips.target_x0 for clips in seen["critic"])
    assert not any(
        left.shape == right.shape and torch.equal(left, right)
        for left, right in ((first, second), (second, third))
    )
    moved = [
        not torch.equal(student[name], weight)
        for name, weight in stepper.networks.trainable_parameters().items()
    ]
    assert any(moved) and report.learners["critic"] > 0
    assert not any(clips.predicted_x0.requires_grad for name in seen for clips in seen[name])
    batches = [stepper.micro_batches(step, 0, update)[0] for step in range(2) for update in range(3)]
    captions = [tuple(stepper.read(batch, [stepper.schedule.target]).captions) for batch in batches]
    read = [caption for some in captions[:3] for caption in some]
    assert sorted(read) == sorted(stepper.clips.captions)  # one epoch of six clips: each once
    optimizer = stepper.optimizers[0].state_dict()["state"][0]
    assert optimizer["step"] == 1


def test_a_saved_student_has_nothing_of_the_critic(make_config: MakeConfig, tmp_path: Path) -> None:
    with_critic = build_run(
        make_config("lora", parts=ADVERSARIES), tmp_path / "a"
    ).stepper.networks.lora_state_dict()
    without = build_run(make_config("lora"), tmp_path / "b").stepper.networks.lora_state_dict()
    assert with_critic is not None and without is not None
    assert {key: value.shape for key, value in with_critic.items()} == {
        key: value.shape for key, value in without.items()
    }


def test_impossible_parts_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.gan\.block: 3 does not exist; .* has blocks 0 to 2"):
        build_run(make_config(parts={"gan": {"block": 3}}), tmp_path / "run")
    with pytest.raises(ConfigError, match="nothing to train on"):
        make_config(loss={"weight": 0})
    assert not make_config(loss={"weight": 0}, parts={"gan": {}}).loss.mmd.terms
    path = tmp_path / "config-in.yaml"
    with pytest.raises(ConfigError, match=r"sigma_min 0\.9 is above sigma_max 0\.6"):
        load_config(path, {"loss.gan": "{sigma_min: 0.9}"})
