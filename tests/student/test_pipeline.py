"""The pipeline on the scheduler: the clips of the reference loop, and what it offers on the way."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from PIL import Image

from swd_video.core.grid import LatentSize
from swd_video.core.resize import Upsample, resize_latents
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.core.upsampler import LatentUpsampler, growing_pairs
from swd_video.models.wan import WanModel
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline

from ..reference import sample_clips


@pytest.fixture
def pipe(tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule) -> ScaleWisePipeline:
    return _make(tiny_wan_pipe, tiny_schedule)


def _make(
    wan: WanPipeline,
    schedule: ScaleSchedule,
    positions: str = "native",
    upsampler: LatentUpsampler | None = None,
    **facts: Any,
) -> ScaleWisePipeline:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(schedule, upsampler=upsampler)
    pipe = ScaleWisePipeline(WanModel.from_pipeline(wan, **facts), scheduler, positions)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_the_reference_loop_bit_for_bit(
    pipe: ScaleWisePipeline, tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    prompts = ["a cat", "two dogs run"]
    latents = pipe(prompts, generator=_generator(3), output_type="latent").frames
    model = WanModel.from_pipeline(tiny_wan_pipe)
    prompt_embeds = model.encode_prompt(prompts)
    with torch.no_grad():
        reference = sample_scalewise(
            lambda noisy_latents, sigma, _: model.predict_velocity(noisy_latents, sigma, prompt_embeds),
            tiny_schedule,
            batch_size=2,
            channels=4,
            upsample=resize_latents,
            generator=_generator(3),
        )
        video = pipe(prompts, generator=_generator(3), output_type="pt").frames
        pixels = model.decode(reference)
    assert torch.equal(latents, reference)
    assert torch.equal(video, (pixels / 2 + 0.5).clamp(0, 1).transpose(1, 2))


def test_with_windows_in_late_stages_too(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, local_schedule: ScaleSchedule
) -> None:
    clips = []
    for schedule in (local_schedule, tiny_schedule):
        pipe = _make(tiny_wan_pipe, schedule)
        clips.append(pipe("a cat", generator=_generator(3), output_type="pt", frames=13).frames)
    longer = local_schedule.scaled_to(LatentSize(4, 6, 8))
    model = WanModel.from_pipeline(tiny_wan_pipe)
    pixels = sample_clips(model, longer, ["a cat"], upsample=resize_latents, generator=_generator(3))
    assert torch.equal(clips[0], (pixels / 2 + 0.5).transpose(1, 2))
    assert not torch.allclose(clips[0], clips[1])


def test_in_half_precision_too(
    pipe: ScaleWisePipeline, tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    pipe.model.pipe.to(torch.bfloat16)
    latents = pipe("a cat", generator=_generator(3), output_type="latent").frames
    model = WanModel.from_pipeline(tiny_wan_pipe)
    prompt_embeds = model.encode_prompt(["a cat"])
    with torch.no_grad():
        reference = sample_scalewise(
            lambda noisy_latents, sigma, _: model.predict_velocity(noisy_latents, sigma, prompt_embeds),
            tiny_schedule,
            batch_size=1,
            channels=4,
            upsample=resize_latents,
            generator=_generator(3),
            dtype=torch.bfloat16,
        )
    assert latents.dtype == torch.float32
    assert torch.equal(latents, reference)


def test_rescaled_positions_are_the_models(tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule) -> None:
    pipe = _make(tiny_wan_pipe, tiny_schedule, positions="rescaled")
    latents = pipe("a cat", generator=_generator(3), output_type="latent").frames
    model = WanModel.from_pipeline(tiny_wan_pipe)
    native = sample_clips(model, tiny_schedule, ["a cat"], upsample=resize_latents, generator=_generator(3))
    model.rescale_positions(tiny_schedule.target.frames)
    rescaled = sample_clips(model, tiny_schedule, ["a cat"], upsample=resize_latents, generator=_generator(3))
    with torch.no_grad():
        assert torch.equal(model.decode(latents).clamp(-1, 1), rescaled)
    assert not torch.allclose(native, rescaled)


def test_the_output_has_the_promised_shape(pipe: ScaleWisePipeline, tiny_schedule: ScaleSchedule) -> None:
    output = pipe("a cat", num_videos_per_prompt=2, generator=_generator())
    assert output.frames.shape == (2, 9, 48, 64, 3)
    assert output.frames.min() >= 0 and output.frames.max() <= 1
    assert not np.array_equal(output.frames[0], output.frames[1])
    assert output.previews is None
    assert len(output.stage_seconds) == len(tiny_schedule) and min(output.stage_seconds) > 0


def test_every_output_type_shows_the_same_clip(pipe: ScaleWisePipeline) -> None:
    outputs = {
        kind: pipe("a cat", generator=_generator(), output_type=kind).frames
        for kind in ("np", "pt", "pil", "latent")
    }
    array = outputs["np"]
    assert outputs["pt"].shape == (1, 9, 3, 48, 64)
    assert np.array_equal(outputs["pt"].permute(0, 1, 3, 4, 2).numpy(), array)
    assert isinstance(outputs["pil"][0][0], Image.Image) and len(outputs["pil"][0]) == 9
    assert np.array_equal(np.asarray(outputs["pil"][0][4]), (array[0, 4] * 255).round().astype(np.uint8))
    assert outputs["latent"].shape == (1, 4, 3, 6, 8)
    assert np.array_equal(pipe.decode_latents(outputs["latent"]), array)


def test_previews_are_every_stage_decoded(pipe: ScaleWisePipeline, tiny_schedule: ScaleSchedule) -> None:
    clean: list[torch.Tensor] = []

    def keep(_pipe: Any, _index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        clean.append(tensors["x0"])
        return {}

    output = pipe(
        "a cat",
        generator=_generator(),
        preview=True,
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["x0"],
    )
    assert output.previews is not None
    assert [preview.shape for preview in output.previews] == [
        (1, 5, 32, 32, 3),
        (1, 9, 32, 32, 3),
        (1, 9, 48, 64, 3),
    ]
    for preview, x0 in zip(output.previews, clean, strict=True):
        assert np.array_equal(preview, pipe.decode_latents(x0))
    assert np.array_equal(output.previews[-1], output.frames)
    assert np.array_equal(output.frames, pipe("a cat", generator=_generator()).frames)


def test_one_generator_for_each_clip_makes_clips_independent(pipe: ScaleWisePipeline) -> None:
    def latents(prompt: list[str], seeds: list[int]) -> torch.Tensor:
        generators = [_generator(seed) for seed in seeds]
        return pipe(prompt, generator=generators, output_type="latent").frames

    both = latents(["a cat", "a dog"], [1, 2])
    torch.testing.assert_close(both[:1], latents(["a cat"], [1]))
    torch.testing.assert_close(both[1:], latents(["a dog"], [2]))
    with pytest.raises(ValueError, match="got 1 generators, expected 2"):
        latents(["a cat", "a dog"], [1])


def test_given_latents_and_embeds_replace_drawing_and_encoding(
    pipe: ScaleWisePipeline, tiny_schedule: ScaleSchedule
) -> None:
    expected = pipe(["a cat", "a dog"], num_videos_per_prompt=2, generator=_generator()).frames
    embeds = pipe.model.encode_prompt(["a cat", "a dog"])
    generator = _generator()
    latents = torch.randn(4, 4, *tiny_schedule[0].grid.as_tuple(), generator=generator)
    got = pipe(prompt_embeds=embeds, num_videos_per_prompt=2, latents=latents, generator=generator).frames
    assert np.array_equal(got, expected)
    with pytest.raises(ValueError, match=r"latents: got shape \(4, 4, 2, 4, 4\), expected \(1, 4, 2, 4, 4\)"):
        pipe("a cat", latents=latents)


def test_the_prompt_matters(pipe: ScaleWisePipeline) -> None:
    cat, dog = (pipe(text, generator=_generator(), output_type="latent").frames for text in ("cat", "dog"))
    assert not torch.equal(cat, dog)


def test_a_callback_sees_every_stage_and_can_change_what_follows(
    pipe: ScaleWisePipeline, tiny_schedule: ScaleSchedule
) -> None:
    seen: list[tuple[int, float, tuple[int, ...]]] = []

    def callback(
        _pipe: Any, index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        assert set(tensors) == {"latents", "prompt_embeds"}
        seen.append((index, float(timestep), tuple(tensors["latents"].shape[2:])))
        return {"latents": torch.zeros_like(tensors["latents"])} if index == 2 else {}

    latents = pipe(
        "a cat",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        output_type="latent",
    ).frames
    assert seen == [(0, 1000.0, (3, 4, 4)), (1, 800.0, (3, 6, 8)), (2, 500.0, (3, 6, 8))]
    assert latents.abs().max() == 0


def test_embeds_changed_by_a_callback_reach_the_next_stage(pipe: ScaleWisePipeline) -> None:
    def forget(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}

    changed = pipe(
        "a cat",
        generator=_generator(),
        callback_on_step_end=forget,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        output_type="latent",
        preview=True,
    ).previews
    plain = pipe("a cat", generator=_generator(), output_type="latent", preview=True).previews
    assert torch.equal(changed[0], plain[0])
    assert not torch.equal(changed[1], plain[1])


def test_an_interrupted_run_gives_the_stage_just_done(pipe: ScaleWisePipeline) -> None:
    def stop(running: Any, index: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        running._interrupt = index == 1
        return {}

    output = pipe("a cat", generator=_generator(), callback_on_step_end=stop, preview=True)
    whole = pipe("a cat", generator=_generator(), preview=True)
    assert output.frames.shape == (1, 9, 32, 32, 3) and len(output.stage_seconds) == 2
    assert np.array_equal(output.frames, whole.previews[1])


def test_another_size_scales_the_stages(pipe: ScaleWisePipeline, tiny_schedule: ScaleSchedule) -> None:
    schedule = pipe.schedule_for(frames=17, width=96)
    assert schedule.target == LatentSize(5, 6, 12)
    output = pipe("a cat", frames=17, width=96, generator=_generator(), preview=True)
    assert output.frames.shape == (1, 17, 48, 96, 3)
    assert [preview.shape[1] for preview in output.previews] == [9, 17, 17]
    # The next clip is of the schedule's own size again.
    assert pipe.schedule_for() is tiny_schedule or pipe.schedule_for() == tiny_schedule
    assert pipe("a cat").frames.shape == (1, 9, 48, 64, 3)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [({"frames": 10}, "9x48x64"), ({"height": 50}, "9x48x64"), ({"frames": 12, "width": 90}, "13x48x96")],
)
def test_illegal_sizes_are_refused_with_the_nearest_legal_one(
    pipe: ScaleWisePipeline, size: dict[str, int], nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"Nearest legal size: {nearest}"):
        pipe("a cat", **size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got neither, expected exactly one"),
        ({"prompt": "a", "prompt_embeds": torch.zeros(1, 48, 16)}, "got both, expected exactly one"),
        ({"prompt": []}, "got an empty list"),
        (
            {"prompt": "a", "output_type": "gif"},
            "output_type: got 'gif', expected one of np, pt, pil, latent",
        ),
        (
            {"prompt": "a", "callback_on_step_end_tensor_inputs": ["latent"]},
            "got latent, expected some of latents, prompt_embeds, x0",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    pipe: ScaleWisePipeline, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_there_is_no_guidance_to_set() -> None:
    parameters = inspect.signature(ScaleWisePipeline.__call__).parameters
    assert not {"guidance_scale", "negative_prompt", "num_inference_steps"} & set(parameters)


def test_text_length_is_the_model_s(tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule) -> None:
    lengths: list[int] = []
    tiny_wan_pipe.transformer.register_forward_pre_hook(
        lambda _module, _inputs, named: lengths.append(named["encoder_hidden_states"].shape[1]),
        with_kwargs=True,
    )
    _make(tiny_wan_pipe, tiny_schedule)("a cat", output_type="latent")
    _make(tiny_wan_pipe, tiny_schedule, text_length=20)("a cat", output_type="latent")
    assert lengths == [48] * 3 + [20] * 3


def test_a_timestep_per_token_changes_nothing_but_the_form(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    plain = _make(tiny_wan_pipe, tiny_schedule)("a cat", generator=_generator(), output_type="latent").frames
    tiny_wan_pipe.register_to_config(expand_timesteps=True)
    expanding = _make(tiny_wan_pipe, tiny_schedule)
    got = expanding("a cat", generator=_generator(), output_type="latent").frames
    torch.testing.assert_close(got, plain)


def test_a_student_with_a_learned_upsampler_is_sampled_through_it(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    upsampler = LatentUpsampler(4, 8, 1, growing_pairs(tiny_schedule)).requires_grad_(False)
    upsampler.out.weight.normal_(generator=_generator(3))
    pipe = _make(tiny_wan_pipe, tiny_schedule, upsampler=upsampler)
    made = pipe("a cat", generator=_generator(3), output_type="pt").frames

    def reference(upsample: Upsample) -> torch.Tensor:
        clips = sample_clips(pipe.model, tiny_schedule, ["a cat"], upsample=upsample, generator=_generator(3))
        return (clips / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    assert torch.equal(made, reference(pipe.scheduler.upsample))
    assert not torch.allclose(made, reference(resize_latents), atol=1e-3)


def test_positions_are_those_of_the_call_s_length(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule
) -> None:
    pipe = _make(tiny_wan_pipe, tiny_schedule, "rescaled")
    native = _make(tiny_wan_pipe, tiny_schedule)("a cat", generator=_generator(3)).frames
    first = pipe("a cat", generator=_generator(3)).frames
    pipe("a cat", frames=17, output_type="latent")
    assert np.array_equal(pipe("a cat", generator=_generator(3)).frames, first)
    assert not np.allclose(first, native)
    # The model is others' too: a call leaves what they set, and nothing of its own.
    assert pipe.model.full_frames is None
    other = ScaleWisePipeline(pipe.model, pipe.scheduler)
    pipe.model.rescale_positions(7)
    assert np.array_equal(other("a cat", generator=_generator(3)).frames, native)
    assert pipe.model.full_frames == 7


def test_what_does_not_fit_is_refused(tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule) -> None:
    with pytest.raises(ValueError, match="got a FlowMatchEulerDiscreteScheduler, expected"):
        ScaleWisePipeline(WanModel.from_pipeline(tiny_wan_pipe), FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="positions: got 'odd', expected native or rescaled"):
        _make(tiny_wan_pipe, tiny_schedule, "odd")
    with pytest.raises(ValueError, match=r"schedule\[0\]: .* Nearest legal latent size: 1x2x2"):
        _make(tiny_wan_pipe, ScaleSchedule((Stage(1.0, LatentSize(1, 2, 3)),)))
