"""Our teacher against diffusers' own pipeline of its class: all steps, with the pipeline's defaults, and the VAE."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, LTXImageToVideoPipeline, UniPCMultistepScheduler
from einops import rearrange
from torch import Tensor

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_seed
from swd_video.core.sampling import draw_noise
from swd_video.models.base import VideoModel
from swd_video.models.registry import ADAPTERS, adapter_for, pipeline_class_for
from swd_video.models.teacher_sampling import sample_teacher

PROMPTS = ["a cat", "a dog that runs"]
# Passes one after another, as here. LTX and CogVideoX pass prompts and negative prompts as one batch, CogVideoX's
# latents have another scale here, and UniPC's whole timesteps are rounded on their way through sigma.
EXACT = ("wan", "wan-ti2v", "wan-a14b", "hunyuan")
VARIANTS = ("wan-unipc", "ltx-shifted", "cogvideox-dpm", "hunyuan-undistilled")
BuildModel = Callable[[str], VideoModel]


def _generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


@pytest.fixture
def build(tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]) -> BuildModel:
    """The adapter of a family, or of a variant of one."""

    def build(name: str) -> VideoModel:
        family = name if name not in VARIANTS else name.rsplit("-", 1)[0]
        pipe = tiny_pipe(family)
        if name == "wan-unipc":  # what Wan is published with
            pipe.scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )
        elif name == "ltx-shifted":  # as LTX-Video is published
            published = {
                "base_shift": 0.95,
                "max_shift": 2.05,
                "base_image_seq_len": 1024,
                "shift_terminal": 0.1,
            }
            pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **published)
        elif name == "cogvideox-dpm":  # as 5b and 1.5 are
            pipe.scheduler = CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
        elif name == "hunyuan-undistilled":
            network = pipe.transformer
            with torch.random.fork_rng(devices=[]):
                pipe.transformer = (
                    type(network).from_config({**network.config, "guidance_embeds": False}).eval()
                )
        return adapter_for(type(pipe).__name__).from_pipeline(pipe, **tiny_family(family).extras)

    return build


def _call(model: VideoModel, grid: LatentSize, **more: Any) -> Tensor:
    """The stock pipeline's clips, in our layout where they are latents; its own defaults but for the tiny text."""
    size, family = model.spec.compression.pixel_size(grid), model.spec.family
    if family == "hunyuan":
        more |= {"prompt_template": model.prompt_template, "max_sequence_length": model.max_tokens}
    elif family == "wan":
        more["max_sequence_length"] = model.spec.text_length
    if family == "cogvideox" and "latents" not in more:
        # It draws noise of another layout than ours.
        shape = (2, model.spec.latent_channels, *grid.as_tuple())
        more["latents"] = draw_noise(shape, generator=more["generator"]).transpose(1, 2)
    sizes = {"num_frames": size.frames, "height": size.height, "width": size.width}
    clips = model.pipe(prompt=PROMPTS, **sizes, **more).frames
    if more["output_type"] == "latent" and clips.ndim == 3:
        clips = rearrange(clips, "b (f h w) c -> b c f h w", f=grid.frames, h=grid.height)
    return clips.transpose(1, 2) if family == "cogvideox" or more["output_type"] == "pt" else clips


def _grid(name: str, tiny_family: Callable[[str], Any]) -> LatentSize:
    grid: LatentSize = tiny_family(name.rsplit("-", 1)[0] if name in VARIANTS else name).grid
    return grid


@torch.no_grad()
@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize(
    "name",
    [
        *("wan", "wan-ti2v", "wan-a14b", "ltx", "ltx-condition", "hunyuan", "cogvideox", "cogvideox-1.5"),
        *VARIANTS,
    ],
)
def test_a_teacher_s_clips_are_those_of_its_pipeline(
    name: str, steps: int, build: BuildModel, tiny_family: Callable[[str], Any]
) -> None:
    model = build(name)
    grid = _grid(name, tiny_family)
    expected = _call(model, grid, num_inference_steps=steps, generator=_generators(), output_type="latent")
    size, before = model.spec.compression.pixel_size(grid), dict(model.pipe.scheduler.config)
    for _ in range(2):  # the scheduler keeps no state of an earlier call
        got = sample_teacher(model, PROMPTS, size, steps=steps, generator=_generators())
        tolerance = 0 if name in EXACT else 1e-5
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    assert dict(model.pipe.scheduler.config) == before
    assert expected.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("steps", [4, 10])
def test_clips_that_start_from_a_picture_are_those_of_the_pipeline(steps: int, build: BuildModel) -> None:
    text_model, grid = build("ltx"), LatentSize(3, 2, 3)
    model = adapter_for("LTXImageToVideoPipeline").from_pipeline(
        LTXImageToVideoPipeline(**text_model.pipe.components)
    )
    model.pipe.set_progress_bar_config(disable=True)
    picture = torch.randn(2, 3, 1, 64, 96, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    first_frame = model.encode_video(picture)
    noise = draw_noise((2, model.spec.latent_channels, *grid.as_tuple()), generator=_generators())
    start = rearrange(torch.cat([first_frame, noise[:, :, 1:]], dim=2), "b c f h w -> b (f h w) c")
    expected = _call(model, grid, latents=start, num_inference_steps=steps, output_type="latent")
    got = sample_teacher(
        model,
        model.encode_prompt(PROMPTS),
        grid,
        steps=steps,
        negative_prompt=model.encode_prompt([""] * 2),
        generator=_generators(),
        first_frame=first_frame,
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "family", ["wan", "wan-ti2v", "ltx", "ltx-condition", "hunyuan", "cogvideox", "cogvideox-1.5"]
)
def test_latents_are_decoded_as_the_pipeline_does(
    family: str, build: BuildModel, tiny_family: Callable[[str], Any]
) -> None:
    model, grid, more = build(family), _grid(family, tiny_family), {}
    if family == "ltx-condition":  # Lightricks' values, and the noise that our clips always have
        more = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
    seen: list[Tensor] = []
    generators = _generators()

    def keep(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"])
        for generator in (*generators, torch.default_generator):
            generator.manual_seed(keyed_seed("ltx", "decode"))
        return {}

    expected = _call(
        model,
        grid,
        num_inference_steps=1,
        generator=generators,
        output_type="pt",
        callback_on_step_end=keep,
        **more,
    )
    layout = {"ltx": "b (f h w) c", "cogvideox": "b f c h w"}.get(model.spec.family, "b c f h w")
    axes = dict(zip("fhw", grid.as_tuple(), strict=True))
    latents = rearrange(seen[0], f"{layout} -> b c f h w", **axes)
    assert expected.shape[2:] == model.spec.compression.pixel_size(grid).as_tuple()
    before = torch.get_rng_state()
    got = model.decode(latents)
    assert torch.equal((got / 2 + 0.5).clamp(0, 1), expected)
    assert torch.equal(got, model.decode(latents)) and torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(model.decode(latents[1:]), got[1:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_clips_are_encoded_as_published_training_code_does(
    model: VideoModel, family: str, grid: LatentSize
) -> None:
    """diffusers' pipelines for pictures, finetrainers and CogVideo's own trainer, with the mode in place of a draw."""
    size, config = model.spec.compression.pixel_size(grid), model.vae.config
    pixels = torch.randn(2, 3, *size.as_tuple(), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    raw = model.vae.encode(pixels).latent_dist.mode()
    if family.startswith("ltx"):
        mean, std = (x.view(1, -1, 1, 1, 1) for x in (model.vae.latents_mean, model.vae.latents_std))
        expected = (raw - mean) * config.scaling_factor / std
    elif family.startswith("wan"):
        mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
        expected = (raw - mean) * (1.0 / std)
    else:
        expected = raw * config.scaling_factor
    if family == "cogvideox-1.5":
        copies = expected.shape[2] % 2
        expected = torch.cat([expected[:, :, :1].repeat(1, 1, copies, 1, 1), expected], dim=2)
        assert copies == 1
    assert torch.equal(model.encode_video(pixels), expected) and expected.shape[2] == grid.frames


@torch.no_grad()
def test_the_second_transformer_may_have_a_guidance_of_its_own(
    build: BuildModel, tiny_family: Callable[[str], Any]
) -> None:
    model, grid = build("wan-a14b"), LatentSize(1, 4, 6)
    scales = {"guidance_scale": 4.0, "guidance_scale_2": 3.0}
    expected = _call(
        model, grid, num_inference_steps=4, generator=_generators(), output_type="latent", **scales
    )
    size = model.spec.compression.pixel_size(grid)
    got = sample_teacher(model, PROMPTS, size, steps=4, generator=_generators(), **scales)
    assert torch.equal(got, expected)
    assert not torch.equal(
        got, sample_teacher(model, PROMPTS, size, steps=4, guidance_scale=4, generator=_generators())
    )


@torch.no_grad()
def test_the_second_transformer_is_guided_where_the_first_is_not(build: BuildModel) -> None:
    model, size = build("wan-a14b"), LatentSize(1, 4, 6)

    def sample(scale_2: float) -> torch.Tensor:
        scales = {"guidance_scale": 1, "guidance_scale_2": scale_2}
        return sample_teacher(model, PROMPTS, size, steps=4, generator=_generators(), **scales)

    assert not torch.equal(sample(3.0), sample(1.0))


def test_the_spec_has_the_defaults_of_the_pipeline(tiny_pipe: Callable[[str], Any]) -> None:
    for name in ADAPTERS:
        call = inspect.signature(pipeline_class_for(name, adapter_for(name)).__call__).parameters
        own = call.get("true_cfg_scale", call["guidance_scale"])
        assert adapter_for(name).guidance_scale == own.default, name
    hunyuan = adapter_for("HunyuanVideoPipeline").from_pipeline(tiny_pipe("hunyuan"))
    call = inspect.signature(hunyuan.pipe.__call__).parameters
    assert hunyuan.spec.embedded_guidance == call["guidance_scale"].default
    assert hunyuan.max_tokens == call["max_sequence_length"].default
