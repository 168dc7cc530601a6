"""Runs with a critic and a discriminator beside the student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swd_video.config import ConfigError
from swd_video.objectives.objective import ClipPair, Learner
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.loop import train
from swd_video.training.passes import step_passes
from swd_video.training.step import Stepper, StepReport

from .conftest import train_until

MakeConfig = Callable[..., DistillConfig]
ADVERSARIES: dict[str, Any] = {"dmd": {"critic_rank": 2, "guidance_scale": 2.0, "data_share": 0.5}, "gan": {}}


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

    train_until(build_run(config, tmp_path / "stopped"), 3)
    train(build_run(config, tmp_path / "stopped"))
    weights = [
        sorted((tmp_path / run / "student").rglob("*.safetensors"))[0].read_bytes()
        for run in ("straight", "stopped")
    ]
    assert weights[0] == weights[1]


def test_parts_of_the_loss_and_their_learners_pass_by_stages_that_are_not_theirs(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    parts = {"dmd": {"critic_rank": 2, "stages": [1, 2]}, "gan": {"stages": [3]}}
    config = make_config(parts=parts, steps=12, batch_size=4, stages_per_step=2, stage_weights=[1, 1, 2])
    stepper = build_run(config, tmp_path / "run").stepper
    kinds = set()
    for step in range(12):
        batches = [stepper.micro_batches(step, part)[0] for part in range(2)]
        with torch.no_grad():
            alone = [stepper.compare(batch, stepper.predict(batch)) for batch in batches]
        before = {learner.name: _weights(learner) for learner in stepper.learners}
        report = stepper.take_step(step)
        moved = {name for name in before if any(
            not torch.equal(*pair) for pair in zip(before[name], _weights(_named(stepper, name)), strict=True)
        )}  # fmt: skip
        early, late = ([(b.stage_index == 2) is last for b in batches] for last in (False, True))
        kinds.add((any(early), any(late)))
        assert moved == set(report.learners)
        assert moved == ({"critic"} if any(early) else set()) | ({"discriminator"} if any(late) else set())
        assert set(report.losses) == {"mmd"} | ({"dmd"} if any(early) else set()) | (
            {"gan"} if any(late) else set()
        )
        # mmd comes first, then the one that has a say there; a mean is of the parts in which it had it.
        for name, shown in (("dmd", early), ("gan", late)):
            values = [losses[1].item() for losses, seen in zip(alone, shown, strict=True) if seen]
            assert not values or report.losses[name] == pytest.approx(sum(values) / len(values))
    assert kinds == {(True, True), (True, False), (False, True)}


def _named(stepper: Stepper, name: str) -> Learner:
    return next(learner for learner in stepper.learners if learner.name == name)


def _weights(learner: Learner) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in learner.parameters.values()]


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


def test_more_updates_are_of_the_stages_that_a_learner_has_a_say_in(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(parts={"gan": {"stages": [3], "updates": 4, "lr": 1e-12}}, steps=8)
    stepper = build_run(config, tmp_path / "run").stepper
    made = []
    predict = stepper.predict
    stepper.predict = lambda batch: (made.append(batch), predict(batch))[1]  # type: ignore[assignment,func-returns-value]
    losses = [stepper.take_step(step).learners.get("discriminator") for step in range(8)]
    # Heads that have not learned yet know nothing: a hinge of 1 for each of both sides, however often they are asked.
    shown = [loss for loss in losses if loss is not None]
    assert shown and shown == pytest.approx([2.0] * len(shown), abs=0.2)
    again = [batch for batch in made if batch.update > 0]
    assert again and {batch.stage_index for batch in again} == {2}
    spec = stepper.networks.model.spec
    assert not step_passes(config, spec, 0)["new_clips"] and step_passes(config, spec, 2)["new_clips"]


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
    weaker = {
        "dmd": {**ADVERSARIES["dmd"], "weaker": {"transformer_file": str(tmp_path / "gone.safetensors")}}
    }
    with pytest.raises(ValueError, match=r"loss\.dmd: .*gone\.safetensors: no such file; check the path"):
        build_run(make_config(parts=weaker), tmp_path / "run")
    with pytest.raises(ConfigError, match="nothing to train on"):
        make_config(mmd=[])
    assert list(make_config(mmd=[{"weight": 0}], parts={"gan": {}}).loss.objectives) == ["gan"]
    path = tmp_path / "config-in.yaml"
    with pytest.raises(ConfigError, match=r"sigma_min 0\.9 is above sigma_max 0\.6"):
        load_config(path, {"loss.gan": "{sigma_min: 0.9}"})
