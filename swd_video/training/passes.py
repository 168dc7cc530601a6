"""Which networks a step runs: the student's own passes, those of its upsampler, and those of its objectives."""

from dataclasses import replace

from swd_video.core.upsampler import growing_pairs
from swd_video.models.spec import ModelSpec
from swd_video.objectives.passes import Pass
from swd_video.training.config import DistillConfig
from swd_video.training.start import starts_with_upsampler


def step_passes(config: DistillConfig, spec: ModelSpec, stage_index: int) -> dict[str, list[Pass]]:
    """What a step runs for each clip of a stage, by what it is for; see `step.Stepper`."""
    schedule, share = config.scale_schedule(), config.train.backward_simulation
    student = [Pass("student", stage.grid, attention=stage.attention) for stage in schedule]
    # Stages before run for the clips that the student makes its own.
    shares = [share] * stage_index + [1.0]
    simulated = [replace(one, clips=share) for one in student[:stage_index] if share]
    upsampled = [
        replace(one, clips=of)
        for index, of in enumerate(shares)
        if of
        for one in upsampler_passes(config, index)
    ]
    # Whatever learns beside the student more often than the student does sees clips that it makes anew.
    num_new = config.loss.num_updates_at(stage_index) - 1
    makes_new = (student[stage_index], *simulated, *upsampled)
    new_clips = [replace(one, clips=num_new * one.clips) for one in makes_new]
    return {
        "backward_simulation": simulated,
        "upsampler": upsampled,
        "student": [replace(student[stage_index], gradient="weights")],
        "new_clips": new_clips if num_new else [],
        **config.loss.passes(spec, schedule.grids[stage_index], stage_index),
    }


def upsampler_passes(config: DistillConfig, stage_index: int) -> list[Pass]:
    """What the upsampler runs for a clip on its way into a stage."""
    grids, section = config.scale_schedule().grids, config.upsampler
    before, grid = grids[max(stage_index - 1, 0)], grids[stage_index]
    return [] if section is None or before == grid else [Pass(section, before, to=grid)]


def passes_before(config: DistillConfig) -> dict[str, list[Pass]]:
    """What trains before the student itself, by name, with all its clips."""
    section, pairs = config.upsampler, growing_pairs(config.scale_schedule())
    if section is None or (section.file is None and starts_with_upsampler(config.train)):
        return {}
    clips = section.steps * section.batch_size
    passes = [Pass(section, small, clips / len(pairs), "weights", to=large) for small, large in pairs]
    return {section.kind: passes}
