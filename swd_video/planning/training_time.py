"""How long a training step takes: operations over speed, and the wait for the slowest GPU."""

from collections.abc import Sequence

from swd_video.planning.training_memory import TrainingSetup


def step_flops(
    stage_flops: Sequence[float | int], stage_weights: Sequence[float | int], setup: TrainingSetup
) -> float:
    """Mean operations of all GPUs in one step.

    Args:
        stage_flops: of one clip in every stage.
        stage_weights: how often each is drawn, relative to the others.
        setup: clips in a step.
    """
    shares = [weight / sum(stage_weights) for weight in stage_weights]
    mean = sum(share * flops for share, flops in zip(shares, stage_flops, strict=True))
    return mean * setup.clips_per_step


def slowest_flops(
    stage_flops: Sequence[float | int], stage_weights: Sequence[float | int], setup: TrainingSetup
) -> float:
    """Expected operations of the GPU that all others wait for in a step.

    Every process draws the stage of every micro-batch by itself, and a step ends when the last has finished its own.
    The exact mean of the largest of `num_gpus` sums of `grad_accum` draws.
    """
    total = sum(stage_weights)
    one = {
        flops * setup.batch_size: weight / total
        for flops, weight in _merged(stage_flops, stage_weights).items()
    }
    sums: dict[float | int, float] = {0: 1.0}
    for _ in range(setup.grad_accum):
        longer: dict[float | int, float] = {}
        for so_far, probability in sums.items():
            for flops, share in one.items():
                longer[so_far + flops] = longer.get(so_far + flops, 0.0) + probability * share
        sums = longer
    expected, reached, below = 0.0, 0.0, 0.0
    for flops in sorted(sums):
        reached += sums[flops]
        at_most = reached**setup.num_gpus
        expected += flops * (at_most - below)
        below = at_most
    return expected


def _merged(
    stage_flops: Sequence[float | int], stage_weights: Sequence[float | int]
) -> dict[float | int, float]:
    merged: dict[float | int, float] = {}
    for flops, weight in zip(stage_flops, stage_weights, strict=True):
        merged[flops] = merged.get(flops, 0.0) + weight
    return merged
