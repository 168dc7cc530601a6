"""Adversarial losses."""

import math

import pytest
import torch

from swd_video.losses.gan import ADVERSARIAL_LOSSES

# By hand: hinge (1 - 2 and 1 - 0.5, 1 - 3 and 1 + 0), softplus log(1 + e^x).
TARGET, PREDICTED = [2.0, 0.5], [-3.0, 0.0]
LOG2 = math.log(2)
DISCRIMINATOR = {
    "hinge": (0 + 0.5 + 0 + 1) / 2,
    "softplus": (math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-3)) + LOG2) / 2,
}
STUDENT = {"hinge": 1.5, "softplus": (math.log1p(math.exp(3)) + LOG2) / 2}
# d/dx: hinge -1 where below the margin, +1 where above it; softplus -sigmoid(-x) and sigmoid(x); over two clips.
SIGMOID = 1 / (1 + math.exp(-3))
TARGET_GRADIENT = {"hinge": [0.0, -0.5], "softplus": [-0.5 / (1 + math.exp(x)) for x in TARGET]}
PREDICTED_GRADIENT = {"hinge": [0.0, 0.5], "softplus": [0.5 * (1 - SIGMOID), 0.25]}
STUDENT_GRADIENT = {"hinge": [-0.5, -0.5], "softplus": [-0.5 * SIGMOID, -0.25]}
BLIND = {"hinge": 2.0, "softplus": 2 * LOG2}


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_losses_and_gradients_of_known_logits(name: str) -> None:
    tell, deceive = ADVERSARIAL_LOSSES[name]
    target, predicted = (torch.tensor(values, requires_grad=True) for values in (TARGET, PREDICTED))
    loss = tell(target, predicted)
    loss.backward()
    assert loss.item() == pytest.approx(DISCRIMINATOR[name], rel=1e-6)
    assert target.grad.tolist() == pytest.approx(TARGET_GRADIENT[name], rel=1e-5)
    assert predicted.grad.tolist() == pytest.approx(PREDICTED_GRADIENT[name], rel=1e-5)
    predicted.grad = None
    loss = deceive(predicted)
    loss.backward()
    assert loss.item() == pytest.approx(STUDENT[name], rel=1e-6)
    assert predicted.grad.tolist() == pytest.approx(STUDENT_GRADIENT[name], rel=1e-5)
    assert tell(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(BLIND[name])
