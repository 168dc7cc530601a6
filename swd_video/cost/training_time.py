"""How many operations a training step takes. All GPUs work on the same stage at the same time: none waits."""

from collections.abc import Sequence

from swd_video.cost.training_memory import TrainingSetup


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
    return mean * setup.batch_size
