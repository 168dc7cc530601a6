"""What diffusers' own transformer is called with, and runs that are stopped."""

import pytest
import torch

from swd_video.training.loop import Run, train
from swd_video.training.step import StepReport


class _Stopped(Exception):
    pass


def train_until(run: Run, steps: int) -> None:
    """Begin a run, and stop it after so many steps."""

    def stop(done: int, report: StepReport) -> None:
        if done == steps:
            raise _Stopped

    with pytest.raises(_Stopped):
        train(run, on_step=stop)


@pytest.fixture
def stock_inputs() -> dict[str, torch.Tensor]:
    """What diffusers' own transformer of the tiny pipeline is called with."""
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 4, 3, 4, 4, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 48, 16, generator=generator),
    }
