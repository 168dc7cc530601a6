"""The critic, and the student that leaves it for the teacher."""

from collections.abc import Callable

import torch

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import Stage
from swd_video.models.guidance import Guidance
from swd_video.objectives.dmd import Critic, DmdConfig, DmdObjective
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair

MakeClips = Callable[..., ClipPair]
MakeNetworks = Callable[[str], Networks]


def _gradients(parameters: dict[str, torch.nn.Parameter]) -> list[bool]:
    return [weight.grad is not None and bool(weight.grad.any()) for weight in parameters.values()]


def test_a_critic_starts_as_the_teacher_and_learns_alone(networks: Networks, make_clips: MakeClips) -> None:
    clips = make_clips()
    config = DmdConfig(critic_rank=2, critic_targets=("to_q", "to_v"), critic_lr=1e-2)
    student = dict(networks.trainable_parameters())
    stage = Stage(0.5, LatentSize(*clips.target_x0.shape[2:]))
    before = networks.predict_velocity(clips.target_x0, stage, clips.prompt_embeds)
    critic = Critic(networks, config)
    critic.start(networks)

    assert networks.trainable_parameters().keys() == student.keys()
    assert not critic.parameters.keys() & student.keys() or networks.student is not networks.model.transformer
    objective = DmdObjective(config, Guidance())
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
    assert torch.equal(networks.predict_velocity(clips.target_x0, stage, clips.prompt_embeds), before), (
        "the student is what it was"
    )
    objective(networks, clips, SampleDraws(range(2), 1)).backward()
    assert clips.predicted_x0.grad is not None and clips.predicted_x0.grad.any()
    critic.optimizer.zero_grad()
    assert not any(_gradients(student))


def test_the_teachers_score_comes_from_the_data_where_asked(
    make_networks: MakeNetworks, make_clips: MakeClips
) -> None:
    networks, clips = make_networks("full"), make_clips()
    configs = [DmdConfig(sigma_min=0.4, sigma_max=0.6, data_share=share) for share in (0.0, 1.0)]
    Critic(networks, configs[0])
    losses = [
        DmdObjective(config, Guidance())(networks, clips, SampleDraws(range(2), 1)).item()
        for config in configs
    ]
    assert losses[0] == 0 and losses[1] > 0
