"""Which networks a step runs: the student's own passes, those of what it carries, and those of its objectives."""

from collections import defaultdict
from dataclasses import replace

from swd_video.core.upsampler import growing_pairs
from swd_video.models.spec import ModelSpec
from swd_video.objectives.passes import Pass
from swd_video.training.config import DistillConfig


def step_passes(config: DistillConfig, spec: ModelSpec, stage_index: int) -> dict[str, list[Pass]]:
    """What a step runs for each clip of a stage, by what it is for; see `step.Stepper`."""
    schedule, share = config.scale_schedule(), config.train.backward_simulation
    student = [Pass("student", stage.grid, attention=stage.attention) for stage in schedule]
    # Stages before run for the clips that the student makes its own.
    shares = [share] * stage_index + [1.0]
    simulated = [replace(one, clips=share) for one in student[:stage_index] if share]
    carried: defaultdict[str, list[Pass]] = defaultdict(list)
    for index, of in enumerate(shares):
        for name, passes in carried_passes(config, index).items():
            carried[name] += [replace(one, clips=of) for one in passes if of]
    # Whatever learns beside the student more often than the student does sees clips that it makes anew.
    num_new = config.loss.num_updates - 1
    makes_new = [*simulated, *(one for passes in carried.values() for one in passes)]
    new_clips = [replace(one, clips=num_new * one.clips) for one in (student[stage_index], *makes_new)]
    return {
        "backward_simulation": simulated,
        **carried,
        "student": [replace(student[stage_index], gradient="weights")],
        "new_clips": new_clips if num_new else [],
        **config.loss.passes(spec, schedule.grids[stage_index]),
    }


def carried_passes(config: DistillConfig, stage_index: int) -> dict[str, list[Pass]]:
    """What networks that the student carries run for a clip on its way into a stage, by network."""
    grids, section = config.scale_schedule().grids, config.upsampler
    before, grid = grids[max(stage_index - 1, 0)], grids[stage_index]
    if section is None or before == grid:
        return {"upsampler": []}
    return {"upsampler": [Pass(section, before, to=grid)]}


def earlier_passes(config: DistillConfig) -> dict[str, list[Pass]]:
    """What trains networks that the student carries before the student itself, by network, with all their clips."""
    section, pairs = config.upsampler, growing_pairs(config.scale_schedule())
    if section is None:
        return {"upsampler": []}
    clips = section.steps * section.batch_size
    return {
        "upsampler": [Pass(section, small, clips / len(pairs), "weights", to=large) for small, large in pairs]
    }
