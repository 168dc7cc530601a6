"""The discriminator, and the student that deceives it."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from swd_video.core.randomness import SampleDraws
from swd_video.objectives.gan import HEADS, Discriminator, GanConfig, GanObjective
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair

MakeClips = Callable[..., ClipPair]


@pytest.mark.parametrize("head", HEADS)
def test_a_discriminator_learns_to_tell_and_the_student_to_deceive(
    head: Literal["mlp", "conv3d"], networks: Networks, make_clips: MakeClips
) -> None:
    clips = make_clips()
    config = GanConfig(head=head, hidden=16, block=(0, 2), lr=1e-2, sigma_max=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        discriminator = Discriminator(config, config.heads(networks.model.spec), (0, 2))
    discriminator.start(networks)
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
    assert x0.grad is not None and all(w.grad is None for w in networks.trainable_parameters().values())
    moved = ClipPair(x0.detach() - 0.5 * x0.grad / x0.grad.abs().mean(), clips.target_x0, clips.prompt_embeds)
    assert objective(networks, moved, SampleDraws(range(2), 0)) < before
