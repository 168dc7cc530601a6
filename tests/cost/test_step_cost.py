"""What losses with networks of their own cost equals what their real passes cost."""

import pytest
import torch
from diffusers import WanPipeline

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import count_flops, count_graph, count_kept
from swd_video.cost.step_cost import LossShape, SharedCounters, StepCounter
from swd_video.cost.training_cost import LoraShape
from swd_video.models.wan import WanModel
from swd_video.objectives.dmd import Critic, DmdConfig, DmdObjective
from swd_video.objectives.gan import HEADS, Discriminator, GanConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair

GRID, SMALL = LatentSize(3, 6, 8), LatentSize(2, 4, 4)
BATCH = 2
CRITIC = LoraShape(3, ("to_q", "ffn.net.2"))


@pytest.fixture
def roles(tiny_wan_pipe: WanPipeline) -> Networks:
    return Networks.with_copy(WanModel.from_pipeline(tiny_wan_pipe))


@pytest.fixture
def clips(roles: Networks) -> ClipPair:
    spec = roles.model.spec
    predicted, target = torch.randn(2, BATCH, spec.latent_channels, *GRID.as_tuple())
    return ClipPair(predicted.requires_grad_(), target, torch.randn(BATCH, spec.text_length, spec.text_dim))


def draws() -> SampleDraws:
    return SampleDraws(range(BATCH), 1)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_distribution_matching_and_its_critic(
    guidance_scale: float, roles: Networks, clips: ClipPair, tiny_architecture: Architecture
) -> None:
    config = DmdConfig(critic_rank=CRITIC.rank, critic_targets=CRITIC.targets)
    critic = Critic(roles, config)
    critic.start(roles)
    objective = DmdObjective(config, guidance_scale, clips.prompt_embeds[:1])
    scores = count_graph(lambda: objective(roles, clips, draws()))
    learning = count_graph(lambda: critic.loss(roles, clips.detached(), draws()))

    shared = SharedCounters(tiny_architecture, LossShape((), CRITIC, guided=guidance_scale != 1))
    counter = StepCounter(shared, None)
    parts = counter.stage(GRID).parts
    assert BATCH * parts["dmd_scores"] == scores.forward > 0
    assert scores.backward == 0
    assert BATCH * parts["critic_training"] == learning.forward + learning.backward
    assert parts["teacher_forward"] == parts["gan"] == 0
    often = StepCounter(
        SharedCounters(tiny_architecture, LossShape((), CRITIC, critic_updates=5)), None
    ).stage(GRID)
    assert often.parts["critic_training"] == 5 * parts["critic_training"]
    assert often.parts["new_clips"] == 4 * parts["student_forward"] and parts["new_clips"] == 0
    assert shared.critic_weights == sum(weight.numel() for weight in critic.parameters.values())

    def predict() -> torch.Tensor:
        with roles.critic() as network:
            return roles.model.predict_velocity(
                clips.target_x0, 0.5, clips.prompt_embeds, transformer=network
            )

    real = count_kept(predict, roles.model.transformer)
    assert counter.kept(GRID, bf16=False).critic.at(BATCH) == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("head", HEADS)
def test_a_discriminator(
    head: str, roles: Networks, clips: ClipPair, tiny_architecture: Architecture
) -> None:
    hidden_size, blocks = roles.model.spec.hidden_size, (0, 1)
    config = GanConfig.model_validate({"head": head, "hidden": 5, "block": blocks})
    judge = Discriminator(config, config.heads(roles.model.spec), blocks)
    judge.start(roles)
    deceiving = count_graph(lambda: judge.deceive(roles, clips, draws()))
    learning = count_graph(lambda: judge.loss(roles, clips.detached(), draws()))

    heads = tuple(HEADS[head](hidden_size, 5).to("meta") for _ in blocks)
    shared = SharedCounters(tiny_architecture, LossShape((), heads=heads, heads_block=1))
    counter = StepCounter(shared, None)
    parts = counter.stage(GRID).parts
    assert BATCH * parts["gan"] == deceiving.forward + deceiving.backward
    assert BATCH * parts["discriminator_training"] == learning.forward + learning.backward
    assert shared.head_weights == sum(weight.numel() for weight in judge.parameters.values())

    real = count_kept(lambda: judge.deceive(roles, clips, draws()), roles.model.transformer)
    kept = counter.kept(GRID, bf16=False)
    assert kept.teacher.at(BATCH) == pytest.approx(real, rel=0.1)


def test_own_inputs_run_the_stages_before_for_their_share(
    roles: Networks, clips: ClipPair, tiny_architecture: Architecture
) -> None:
    losses = LossShape((0,), own_inputs=0.25)
    parts = StepCounter(SharedCounters(tiny_architecture, losses), None).stage(GRID, [SMALL, SMALL]).parts
    latents = torch.randn(1, roles.model.spec.latent_channels, *SMALL.as_tuple())
    one = count_flops(lambda: roles.predict_velocity(latents, 1.0, clips.prompt_embeds[:1]))
    assert parts["own_inputs"] == 0.25 * 2 * one
    first = StepCounter(SharedCounters(tiny_architecture, losses), None).stage(GRID)
    assert first.parts["own_inputs"] == 0
    assert first.parts == {**parts, "own_inputs": 0}


def test_each_comparison_has_runs_of_its_own(tiny_architecture: Architecture) -> None:
    one, other, both = (
        StepCounter(SharedCounters(tiny_architecture, LossShape(blocks)), None)
        for blocks in ((0,), (2,), (0, 2))
    )
    for name in ("teacher_forward", "teacher_backward"):
        assert both.stage(GRID).parts[name] == one.stage(GRID).parts[name] + other.stage(GRID).parts[name]
    together = both.kept(GRID, bf16=False)
    assert together.teacher == one.kept(GRID, bf16=False).teacher + other.kept(GRID, bf16=False).teacher
