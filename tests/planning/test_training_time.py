"""How long a step takes where every GPU draws its own stages."""

from itertools import product

import pytest

from swd_video.planning.training_memory import TrainingSetup
from swd_video.planning.training_time import slowest_flops, step_flops

FLOPS, WEIGHTS = [1.0, 10.0, 10.0, 100.0], [1.0, 2.0, 1.0, 4.0]


def setup(accum: int, gpus: int) -> TrainingSetup:
    return TrainingSetup("full", batch_size=2, grad_accum=accum, num_gpus=gpus, bf16=True)


@pytest.mark.parametrize(("accum", "gpus"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 2)])
def test_the_slowest_gpu_by_trying_all_draws(accum: int, gpus: int) -> None:
    expected = 0.0
    for draws in product(range(len(FLOPS)), repeat=accum * gpus):
        probability = 1.0
        for stage in draws:
            probability *= WEIGHTS[stage] / sum(WEIGHTS)
        sums = [
            sum(2 * FLOPS[stage] for stage in draws[gpu * accum : (gpu + 1) * accum]) for gpu in range(gpus)
        ]
        expected += probability * max(sums)
    assert slowest_flops(FLOPS, WEIGHTS, setup(accum, gpus)) == pytest.approx(expected)


def test_one_gpu_waits_for_nobody() -> None:
    alone = setup(accum=2, gpus=1)
    assert slowest_flops(FLOPS, WEIGHTS, alone) == pytest.approx(step_flops(FLOPS, WEIGHTS, alone))


def test_many_gpus_nearly_always_wait_for_the_dearest_stage() -> None:
    assert slowest_flops(FLOPS, WEIGHTS, setup(accum=1, gpus=64)) == pytest.approx(200.0, rel=1e-6)
