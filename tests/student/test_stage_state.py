"""Stopping after a stage and going on: the clips of a run that never stopped, bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler, growing_pairs
from swd_video.models.wan import WanModel
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.stage_state import StageState

PROMPTS = ["a cat", "two dogs run"]


@pytest.fixture
def pipe(tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule) -> ScaleWisePipeline:
    """With an upsampler, so that the way from grid to grid matters."""
    upsampler = LatentUpsampler(4, 8, 1, growing_pairs(tiny_schedule)).requires_grad_(False)
    upsampler.out.weight.normal_(generator=_generator(3))
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule, upsampler=upsampler)
    pipe = ScaleWisePipeline(WanModel.from_pipeline(tiny_wan_pipe), scheduler, "rescaled")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("noise", [lambda: _generator(), lambda: [_generator(1), _generator(2)]])
def test_going_on_gives_what_a_run_that_never_stopped_gives(
    pipe: ScaleWisePipeline, noise: Callable[[], Any], stop: int
) -> None:
    whole = pipe(PROMPTS, generator=noise(), output_type="latent", preview=True, frames=17)
    assert whole.previews is not None
    begun = pipe(PROMPTS, generator=noise(), output_type="latent", stop=stop, frames=17)
    assert torch.equal(begun.frames, whole.previews[stop - 1])
    assert len(begun.stage_seconds) == begun.state.stages == stop
    # Twice, as going on must leave the state as it is.
    for _ in range(2):
        rest = pipe(PROMPTS, start=begun.state, output_type="latent", frames=17)
        assert torch.equal(rest.frames, whole.frames)
        assert len(rest.stage_seconds) == 3 - stop


def test_from_stage_to_stage_each_is_computed_once_and_told(pipe: ScaleWisePipeline) -> None:
    ran: list[int] = []
    pipe.model.transformer.register_forward_hook(lambda *_: ran.append(1))
    whole = pipe("a cat", generator=_generator(), output_type="latent")
    told: list[StageState] = []
    state = None
    for stop in (1, 2, 3):
        kind = {"generator": _generator()} if state is None else {"start": state}
        state = pipe(
            "a cat", **kind, stop=stop, output_type="latent", on_stage=lambda state, _: told.append(state)
        ).state
    assert len(ran) == 2 * 3
    assert [state.stages for state in told] == [1, 2, 3]
    assert torch.equal(told[-1].latents, whole.frames) and torch.equal(state.latents, whole.frames)


def test_clips_leave_a_batch_and_meet_in_another(pipe: ScaleWisePipeline) -> None:
    seeds = [4, 5, 6]
    begun = pipe(["a cat"] * 3, generator=[_generator(seed) for seed in seeds], stop=1, output_type="latent")
    whole = pipe(["a cat"] * 3, start=begun.state, output_type="latent").frames
    # Alone another kernel may round differently, but in a batch of one size nobody's neighbours matter.
    _, second, third = begun.state.split()
    rest = pipe(["a cat"] * 3, start=StageState.join([third, second, third]), output_type="latent").frames
    assert torch.equal(rest, whole[[2, 1, 2]])


def test_states_that_do_not_fit_are_refused(pipe: ScaleWisePipeline) -> None:
    begun = pipe("a cat", generator=_generator(), stop=1, output_type="latent").state
    with pytest.raises(ValueError, match="start: got latents on a 2x4x4 grid, expected 3x4x4"):
        pipe("a cat", start=begun, frames=17)
    with pytest.raises(ValueError, match="start: got 1 clips for 2 prompts"):
        pipe(PROMPTS, start=begun)
    with pytest.raises(ValueError, match="start: brings its noise along"):
        pipe("a cat", start=begun, generator=_generator())
    with pytest.raises(ValueError, match="stop: got 1 stages, expected 2 to 3"):
        pipe("a cat", start=begun, stop=1)
    with pytest.raises(ValueError, match="stop: got 0 stages, expected 1 to 3"):
        pipe("a cat", stop=0)
    done = pipe("a cat", generator=_generator(), output_type="latent").state
    with pytest.raises(ValueError, match="start: 3 stages are done, expected 1 to 2 of 3"):
        pipe("a cat", start=done)
