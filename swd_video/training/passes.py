"""Which networks a step runs: the student's own passes, and those of its objectives."""

from itertools import pairwise

from swd_video.models.spec import ModelSpec
from swd_video.objectives.passes import Pass
from swd_video.training.config import DistillConfig


def step_passes(config: DistillConfig, spec: ModelSpec, stage_index: int) -> dict[str, list[Pass]]:
    """What a step runs for each clip of a stage, by what it is for; see `step.Stepper`.

    Args:
        config: of a distillation.
        spec: of its teacher.
        stage_index: the stage that is trained.
    """
    grids = config.scale_schedule().grids
    grid, before = grids[stage_index], grids[:stage_index]
    share = config.train.backward_simulation
    simulated = [Pass("student", small, share) for small in before if share]
    upsampler = []
    if config.upsampler is not None:
        pairs = list(pairwise(grids[: stage_index + 1]))
        # The last one for every clip, those before where the student makes its own.
        shares = [share] * (len(pairs) - 1) + [1.0]
        upsampler = [
            Pass("upsampler", small, of, to=large)
            for (small, large), of in zip(pairs, shares, strict=False)
            if of and small != large
        ]
    # Whatever learns beside the student more often than the student does sees clips that it makes anew.
    num_new = config.loss.num_updates - 1
    new_clips = [Pass("student", grid, num_new)] + [
        Pass(one.network, one.grid, num_new * one.clips, to=one.to) for one in (*simulated, *upsampler)
    ]
    return {
        "backward_simulation": simulated,
        "upsampler": upsampler,
        "student": [Pass("student", grid, gradient="weights")],
        "new_clips": new_clips if num_new else [],
        **config.loss.passes(spec, grid),
    }
