"""Rescaled temporal positions: the same clip at half the rate turns the rotary embedding as far as at the full one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, WanPipeline

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.models.registry import adapter_for
from swd_video.models.wan import WanModel
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _rotations(pipe: WanPipeline, frames: int, full_frames: int | None) -> torch.Tensor:
    latents = torch.zeros(1, 4, frames, 4, 6)
    model = WanModel.from_pipeline(pipe)
    with model.positions_over(full_frames), model._positions(pipe.transformer):
        cosine, sine = pipe.transformer.rope(latents)
    return torch.stack([cosine, sine]).reshape(2, frames, 6, -1)


def test_a_short_grid_gets_every_other_position_of_the_full_one(tiny_wan_pipe: WanPipeline) -> None:
    full, native = _rotations(tiny_wan_pipe, 21, None), _rotations(tiny_wan_pipe, 11, None)
    rescaled = _rotations(tiny_wan_pipe, 11, 21)
    torch.testing.assert_close(rescaled, full[:, ::2])
    assert not torch.allclose(native, full[:, ::2])
    # Positions in space, and the first frame's, are what they were.
    time = tiny_wan_pipe.transformer.rope.t_dim
    assert torch.equal(rescaled[..., time:], native[..., time:])
    torch.testing.assert_close(rescaled[:, 0], native[:, 0])
    # In between, where no full grid has a frame: 16 frames over 21.
    ends = _rotations(tiny_wan_pipe, 16, 21)
    torch.testing.assert_close(ends[:, -1], full[:, -1])


@pytest.mark.parametrize("frames", [1, 21])
def test_full_grids_and_single_frames_keep_their_numbers(tiny_wan_pipe: WanPipeline, frames: int) -> None:
    assert torch.equal(_rotations(tiny_wan_pipe, frames, 21), _rotations(tiny_wan_pipe, frames, None))


@torch.no_grad()
@pytest.mark.parametrize("family", ["wan", "wan-a14b", "ltx", "hunyuan", "cogvideox-1.5"])
def test_models_rescale_where_told_and_only_there(
    family: str, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    pipe, entry = tiny_pipe(family), tiny_family(family)
    model = entry.adapter.from_pipeline(pipe, **entry.extras)
    height, width = entry.grid.as_tuple()[1:]
    patch = model.spec.compression.patch[0]
    short = _random(1, model.spec.latent_channels, 3 * patch, height, width)
    full = _random(1, model.spec.latent_channels, 5 * patch, height, width)
    embeds = model.encode_prompt(["a cat"])

    def outputs(latents: torch.Tensor) -> list[torch.Tensor]:
        return [model.predict_velocity(latents, 0.9, embeds), *model.features(latents, 0.3, embeds, [2])]

    native, native_full = outputs(short), outputs(full)
    model.rescale_positions(5 * patch)
    rescaled, rescaled_full = outputs(short), outputs(full)
    for before, after in zip(native, rescaled, strict=True):
        assert not torch.allclose(before, after)
    for before, after in zip(native_full, rescaled_full, strict=True):
        assert torch.equal(before, after)
    model.rescale_positions(None)
    for before, after in zip(native, outputs(short), strict=True):
        assert torch.equal(before, after)


def _hunyuan_rotations(model: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with model._positions(model.transformer):
        return model.transformer.rope(latents)


def _cogvideox_rotations(model: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    embeds = torch.zeros(1, model.spec.text_length, model.spec.text_dim)
    return model._transformer_inputs(model.transformer, latents, 0.5, embeds)["image_rotary_emb"]


@pytest.mark.parametrize(
    ("family", "rotations_of", "time"),
    [
        ("hunyuan", _hunyuan_rotations, 4),
        ("cogvideox-5b", _cogvideox_rotations, 4),
        ("cogvideox-1.5", _cogvideox_rotations, 4),
    ],
)
def test_short_grids_of_other_rotary_families_get_every_other_position_too(
    family: str, rotations_of: Callable[..., Any], time: int, tiny_pipe: Callable[[str], Any]
) -> None:
    pipe = tiny_pipe("cogvideox" if family == "cogvideox-5b" else family)
    if family == "cogvideox-5b":
        pipe.transformer = CogVideoXTransformer3DModel.from_config(
            pipe.transformer.config, use_rotary_positional_embeddings=True
        )
    model = adapter_for(type(pipe).__name__).from_pipeline(pipe)
    patch = model.spec.compression.patch[0]

    def rotations(frames: int, full_frames: int | None) -> torch.Tensor:
        model.rescale_positions(None if full_frames is None else full_frames * patch)
        latents = torch.zeros(1, model.spec.latent_channels, frames * patch, 4, 6)
        return torch.stack(rotations_of(model, latents)).unflatten(1, (frames, -1))

    full, native, rescaled = rotations(11, None), rotations(6, None), rotations(6, 11)
    torch.testing.assert_close(rescaled, full[:, ::2])
    assert not torch.allclose(native, full[:, ::2])
    assert torch.equal(rescaled[..., time:], native[..., time:])
    assert torch.equal(rotations(11, 11), full) and torch.equal(rotations(1, 11), rotations(1, None))


def test_families_that_cannot_say_so(tiny_pipe: Callable[[str], Any]) -> None:
    model = adapter_for("CogVideoXPipeline").from_pipeline(tiny_pipe("cogvideox"))
    model.rescale_positions(None)
    with pytest.raises(
        ValueError, match=r"cogvideox model, which has only native ones; set positions to native"
    ):
        model.rescale_positions(5)
    schedule = ScaleSchedule((Stage(1.0, LatentSize(*model.spec.compression.patch)),))
    with pytest.raises(ValueError, match="has only native ones"):  # and not in the first clip only
        ScaleWisePipeline(model, ScaleWiseFlowMatchScheduler.from_schedule(schedule), "rescaled")


def test_gradients_pass_with_checkpointing(tiny_wan_pipe: WanPipeline) -> None:
    model = WanModel.from_pipeline(tiny_wan_pipe)
    model.rescale_positions(5)
    latents, embeds = _random(1, 4, 3, 4, 4).requires_grad_(), _random(1, 48, 16)
    (plain,) = torch.autograd.grad(model.predict_velocity(latents, 0.5, embeds).square().sum(), latents)
    model.transformer.train().enable_gradient_checkpointing()
    (checkpointed,) = torch.autograd.grad(
        model.predict_velocity(latents, 0.5, embeds).square().sum(), latents
    )
    torch.testing.assert_close(plain, checkpointed)
