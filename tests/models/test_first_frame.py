"""Clips that start from a picture, against diffusers' own image-to-video pipelines."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTXImageToVideoPipeline, WanImageToVideoPipeline
from einops import rearrange
from PIL import Image

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.resize import resize_latents, resize_pixels
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.models.base import VideoModel
from swd_video.models.registry import adapter_for
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import check_pictures
from swd_video.student.student import Student
from swd_video.studio.clips import plan_clips
from swd_video.studio.model import load_model_for_rendering
from swd_video.studio.pictures import open_picture, picture_as_pixels
from swd_video.studio.render import render
from swd_video.studio.script import Script
from swd_video.studio.yaml_script import parse_script
from swd_video.yaml_source import SourceError

from ..reference import sample_clips

BuildModel = Callable[[str], VideoModel]


@pytest.fixture
def build(tiny_pipe: Callable[[str], Any]) -> BuildModel:
    def build(family: str) -> VideoModel:
        pipe = tiny_pipe(family)
        return adapter_for(type(pipe).__name__).from_pipeline(pipe)

    return build


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _picture(model: VideoModel, grid: LatentSize) -> torch.Tensor:
    size = model.spec.compression.pixel_size(grid)
    return _random(1, 3, size.height, size.width).clamp(-1, 1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "layout", "grid"),
    [("ltx", "b (f h w) c", LatentSize(3, 2, 3)), ("wan-ti2v", "b c f h w", LatentSize(3, 4, 6))],
)
def test_velocities_are_what_the_image_to_video_pipeline_steps_with(
    family: str, layout: str, grid: LatentSize, build: BuildModel
) -> None:
    model = build(family)
    size, picture = model.spec.compression.pixel_size(grid), _picture(model, grid)
    first_frame = model.encode_video(picture.unsqueeze(2))
    noise = _random(1, model.spec.latent_channels, *grid.as_tuple(), seed=2)
    parts: dict[str, Any] = dict(model.pipe.components)
    if family == "ltx":
        pipe, image = LTXImageToVideoPipeline(**parts), None
        noise = torch.cat([first_frame, noise[:, :, 1:]], dim=2)
    else:
        pipe, image = WanImageToVideoPipeline(**parts, expand_timesteps=True), (picture + 1) / 2
    pipe.set_progress_bar_config(disable=True)
    states = [rearrange(noise, f"b c f h w -> {layout}")]

    def keep(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        states.append(tensors["latents"])
        return {}

    pipe(
        image=image,
        prompt=["a cat"],
        num_frames=size.frames,
        height=size.height,
        width=size.width,
        num_inference_steps=3,
        guidance_scale=1.0,
        latents=states[0],
        output_type="latent",
        max_sequence_length=model.spec.text_length,
        callback_on_step_end=keep,
    )
    embeds, axes = model.encode_prompt(["a cat"]), dict(zip("fhw", grid.as_tuple(), strict=True))
    for step in range(3):
        before, after = (rearrange(s, f"{layout} -> b c f h w", **axes) for s in states[step : step + 2])
        sigma, following = (pipe.scheduler.sigmas[index].item() for index in (step, step + 1))
        expected = (after - before) / (following - sigma)
        velocity = model.predict_velocity(before, sigma, embeds, first_frame=first_frame)
        torch.testing.assert_close(velocity[:, :, 1:], expected[:, :, 1:], rtol=1e-3, atol=1e-3)
        # The first frame's leads to the picture.
        torch.testing.assert_close(before[:, :, :1] - sigma * velocity[:, :, :1], first_frame)
        assert not torch.allclose(velocity[:, :, 1:], model.predict_velocity(before, sigma, embeds)[:, :, 1:])


@pytest.mark.parametrize("family", ["ltx", "wan-ti2v"])
def test_every_stage_starts_with_the_picture_at_its_size(family: str, build: BuildModel) -> None:
    model = build(family)
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)), Stage(0.6, LatentSize(3, 2, 4))))
    picture, seen = _picture(model, schedule.target), []
    generator = torch.Generator().manual_seed(0)
    clips = sample_clips(
        model,
        schedule,
        ["a cat"],
        upsample=resize_latents,
        pictures=picture,
        generator=generator,
        on_stage=lambda _, x0: seen.append(x0),
    )
    assert clips.shape == (1, 3, *model.spec.compression.pixel_size(schedule.target).as_tuple())
    for x0, grid in zip(seen, schedule.grids, strict=True):
        size = model.spec.compression.pixel_size(grid)
        shrunk = resize_pixels(picture.unsqueeze(2), PixelSize(1, size.height, size.width))
        torch.testing.assert_close(x0[:, :, :1], model.encode_video(shrunk), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"pictures: got 32x32 .*; crop and resize them first"):
        check_pictures(model, schedule, torch.zeros(1, 3, 32, 32))


def _film(folder: Path, picture: str = "start.png") -> Script:
    shot = f"  - id: a\n    prompt: a cat\n    picture: {picture}\n"
    return parse_script(f"shots:\n{shot}", folder / "film.yaml")


def test_a_script_s_shot_starts_with_its_picture(
    save_tiny: Callable[[str], Path], tiny_pipe: Callable[[str], Any], tmp_path: Path
) -> None:
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 1, 2)), Stage(0.6, LatentSize(2, 1, 2))))
    transformer = tiny_pipe("ltx").transformer
    made = Student(str(save_tiny("ltx")), ScaleWiseFlowMatchScheduler.from_schedule(schedule))
    made.save(tmp_path / "s", transformer)
    loaded = load_model_for_rendering(str(tmp_path / "s"))
    pipe, model = loaded.pipe, loaded
    Image.effect_mandelbrot((80, 50), (-2, -1, 1, 1), 50).save(tmp_path / "start.png")
    script, out = _film(tmp_path), tmp_path / "out"
    assert render(script, out, model=loaded).count("rendered") == 1
    assert render(script, out, model=loaded).count("skipped") == 1
    (clip,) = plan_clips(script, model)
    picture = picture_as_pixels(open_picture(tmp_path / "start.png", clip.size))
    assert picture.shape == (1, 3, 32, 64)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(clip.take.seed)

    chosen = {"upsample": pipe.scheduler.upsample, "pictures": picture, "generator": generator()}
    expected = sample_clips(pipe.model, schedule, ["a cat"], **chosen)
    got = pipe("a cat", pictures=picture, generator=generator(), output_type="pt").frames
    torch.testing.assert_close(got.transpose(1, 2) * 2 - 1, expected)
    without = pipe("a cat", generator=generator(), output_type="pt").frames
    assert not torch.allclose(got, without)
    with pytest.raises(ValueError, match="pictures: got 2 for 1 prompts, expected one for each"):
        pipe("a cat", pictures=picture.repeat(2, 1, 1, 1))

    Image.new("RGB", (80, 50), "red").save(tmp_path / "start.png")
    assert render(script, out, model=loaded).count("rendered") == 1
    for name, problem in (
        ("none.png", "no such file. Paths start at the script's folder"),
        ("film.yaml", "cannot be read as a picture"),
        ("small.png", "is 60x50 pixels (width x height), expected at least the 64x32 of the clip"),
    ):
        (tmp_path / "film.yaml").write_text("shots: []")
        Image.new("RGB", (60, 50)).save(tmp_path / "small.png")
        with pytest.raises(SourceError) as error:
            plan_clips(_film(tmp_path, name), model)
        assert str(error.value).startswith(
            f"{tmp_path / 'film.yaml'}:4: shots[0].picture: {tmp_path / name}: "
        )
        assert problem in str(error.value)
    with pytest.raises(SourceError, match=r"4: shots\[0\]\.picture: .* makes clips from text alone"):
        plan_clips(script, replace(model, takes_pictures=False))


def test_models_of_text_alone_are_refused(build: BuildModel) -> None:
    model = build("wan")
    latents = _random(1, 4, 3, 4, 4)
    with pytest.raises(ValueError, match="this wan model makes clips from text alone; use LTX-Video"):
        model.predict_velocity(latents, 1.0, model.encode_prompt(["a cat"]), first_frame=latents[:, :, :1])
