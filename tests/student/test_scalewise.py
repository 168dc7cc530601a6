"""The pipeline over an adapter makes the clips of Wan's own, and offers the same on the way."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_latents
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.core.upsampler import LatentUpsampler, Upsample, growing_pairs
from swd_video.models.sampling import sample_clips
from swd_video.models.wan import WanModel
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.wan_pipeline import WanScaleWisePipeline


def _pipe(
    wan: WanPipeline,
    schedule: ScaleSchedule,
    positions: str = "native",
    upsampler: LatentUpsampler | None = None,
) -> ScaleWisePipeline:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(schedule, upsampler=upsampler)
    return ScaleWisePipeline(WanModel.from_pipeline(wan), scheduler, positions)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(("positions", "dtype"), [("native", torch.float32), ("rescaled", torch.bfloat16)])
def test_it_makes_the_clips_of_wan_s_own_pipeline(
    positions: str, dtype: torch.dtype, tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    tiny_wan_pipe.to(dtype)
    pipe = _pipe(tiny_wan_pipe, tiny_schedule, positions)
    own = WanScaleWisePipeline(
        **{**tiny_wan_pipe.components, "scheduler": pipe.scheduler}, positions=positions
    )
    own.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"frames": 5, "num_videos_per_prompt": 2, "preview": True}
    got = pipe(["a cat", "a dog"], generator=_generator(), **arguments)
    expected = own(["a cat", "a dog"], generator=_generator(), **arguments)
    assert got.previews is not None and len(got.stage_seconds) == 3 and min(got.stage_seconds) > 0
    for ours, theirs in zip(got.previews, expected.previews, strict=True):
        assert np.array_equal(ours, theirs)
    assert got.frames.shape == (4, 5, 48, 64, 3)
    assert (pipe.fps, pipe.compression) == (own.fps, own.compression)


def test_a_student_with_a_learned_upsampler_is_sampled_through_it(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    upsampler = LatentUpsampler(4, 8, 1, growing_pairs(tiny_schedule)).requires_grad_(False)
    upsampler.out.weight.normal_(generator=_generator())
    pipe = _pipe(tiny_wan_pipe, tiny_schedule, upsampler=upsampler)
    made = pipe("a cat", generator=_generator(), output_type="pt").frames

    def reference(upsample: Upsample) -> torch.Tensor:
        clips = sample_clips(pipe.model, tiny_schedule, ["a cat"], upsample=upsample, generator=_generator())
        return (clips / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    assert torch.equal(made, reference(pipe.scheduler.upsample))
    assert not torch.allclose(made, reference(resize_latents), atol=1e-3)
    with pytest.raises(TypeError, match="upsample"):
        sample_clips(pipe.model, tiny_schedule, ["a cat"])


def test_positions_are_those_of_the_call_s_length(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    pipe = _pipe(tiny_wan_pipe, tiny_schedule, "rescaled")
    native = _pipe(tiny_wan_pipe, tiny_schedule)("a cat", generator=_generator()).frames
    first = pipe("a cat", generator=_generator()).frames
    pipe("a cat", frames=17, output_type="latent")
    assert np.array_equal(pipe("a cat", generator=_generator()).frames, first)
    assert not np.allclose(first, native)
    # The model is others' too: a call leaves what they set, and nothing of its own.
    assert pipe.model.full_frames is None
    other = ScaleWisePipeline(pipe.model, pipe.scheduler)
    pipe.model.rescale_positions(7)
    assert np.array_equal(other("a cat", generator=_generator()).frames, native)
    assert pipe.model.full_frames == 7


def test_a_callback_sees_every_stage_changes_it_and_stops(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    pipe, seen = _pipe(tiny_wan_pipe, tiny_schedule), []

    def stop(running: ScaleWisePipeline, index: int, timestep: torch.Tensor, tensors: Any) -> dict[str, Any]:
        assert running is pipe and set(tensors) == {"x0"}
        seen.append((index, float(timestep), tuple(tensors["x0"].shape[2:])))
        running._interrupt = index == 1
        return {}

    def call(**options: Any) -> Any:
        return pipe("a cat", generator=_generator(), preview=True, **options)

    stopped = call(callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["x0"])
    assert seen == [(0, 1000.0, (2, 4, 4)), (1, 800.0, (3, 4, 4))]
    assert np.array_equal(stopped.frames, call().previews[1])  # and the next call goes all the way
    changed = call(callback_on_step_end=lambda *_: {"prompt_embeds": torch.zeros(1, 48, 16)})
    assert np.array_equal(changed.previews[0], call().previews[0])
    assert not np.array_equal(changed.previews[1], call().previews[1])


def test_given_latents_and_embeds_replace_drawing_and_encoding(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    pipe, generator = _pipe(tiny_wan_pipe, tiny_schedule), _generator()
    expected = pipe("a cat", generator=_generator()).frames
    latents = torch.randn(1, 4, *tiny_schedule[0].grid.as_tuple(), generator=generator)
    embeds = pipe.model.encode_prompt(["a cat"])
    assert np.array_equal(pipe(prompt_embeds=embeds, latents=latents, generator=generator).frames, expected)


def test_what_does_not_fit_is_refused(tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule) -> None:
    with pytest.raises(ValueError, match="got a FlowMatchEulerDiscreteScheduler, expected"):
        ScaleWisePipeline(WanModel.from_pipeline(tiny_wan_pipe), FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="positions: got 'odd', expected native or rescaled"):
        _pipe(tiny_wan_pipe, tiny_schedule, "odd")
    with pytest.raises(ValueError, match=r"schedule\[0\]: .* Nearest legal latent size: 1x2x2"):
        _pipe(tiny_wan_pipe, ScaleSchedule((Stage(1.0, LatentSize(1, 2, 3)),)))
    pipe = _pipe(tiny_wan_pipe, tiny_schedule)
    for arguments, message in (
        ({}, "got neither"),
        ({"prompt": "a", "frames": 10}, "Nearest legal size: 9x48x64"),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["latent"]}, "got latent, expected some of"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(**arguments)
