"""Adversarial losses."""

import torch

from swd_video.losses.gan import discriminator_loss, generator_loss


def test_losses_of_known_logits() -> None:
    target, predicted = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(target, predicted).item() == 0.25 + 0.5
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == 2
    assert generator_loss(predicted).item() == 1.5
