"""How many operations a step takes."""

import pytest

from swd_video.cost.training_memory import TrainingSetup
from swd_video.cost.training_time import step_flops


def test_a_step_is_its_clips_at_the_mean_over_stages() -> None:
    setup = TrainingSetup("full", batch_size=6, num_gpus=2, bf16=True)
    assert step_flops([1.0, 10.0, 100.0], [1.0, 2.0, 1.0], setup) == pytest.approx(6 * 121 / 4)
