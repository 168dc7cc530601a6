"""What every adapter promises, whatever its family. A new family is added to `conftest.py` and tested here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from swd_video.core.flow import x0_from_velocity
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.models.base import VideoModel
from swd_video.models.registry import adapter_for

from ..reference import sample_clips


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _latents(model: VideoModel, grid: LatentSize, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return _random(batch, model.spec.latent_channels, *grid.as_tuple(), seed=seed)


def test_the_spec_is_what_the_networks_say(model: VideoModel, grid: LatentSize) -> None:
    spec = model.spec
    assert spec.num_blocks > 0 and spec.fps > 0
    assert (
        spec.hidden_size
        == model.features(_latents(model, grid), 0.5, model.encode_prompt(["a"]), [0])[0].shape[2]
    )
    assert adapter_for(type(model.pipe).__name__) is type(model)
    assert model.device == torch.device("cpu")


def test_only_the_transformer_can_be_trained(model: VideoModel) -> None:
    trainable = {id(p) for p in model.transformer.parameters()}
    for part in model.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            assert all(p.requires_grad == (id(p) in trainable) for p in part.parameters())


def test_prompts_are_one_tensor_each_with_zeros_for_padding(model: VideoModel) -> None:
    embeds = model.encode_prompt(["a cat", "a dog that runs"])
    assert embeds.shape == (2, model.spec.text_length, model.spec.text_dim) and not embeds.requires_grad
    torch.testing.assert_close(embeds[1:], model.encode_prompt(["a dog that runs"]))
    if type(model).__name__ != "CogVideoXModel":  # whose transformer is told nothing about padding
        used = (embeds != 0).any(dim=2).sum(dim=1)
        assert used[0] < used[1] < model.spec.text_length


def test_clips_become_latents_and_latents_become_clips(model: VideoModel, grid: LatentSize) -> None:
    size = model.spec.compression.pixel_size(grid)
    pixels = _random(2, 3, *size.as_tuple()).clamp(-1, 1)
    latents = model.encode_video(pixels)
    assert latents.shape == (2, model.spec.latent_channels, *grid.as_tuple())
    assert latents.dtype == torch.float32 and not latents.requires_grad
    assert torch.equal(latents, model.encode_video(pixels))
    latents = _latents(model, grid).requires_grad_()
    decoded = model.decode(latents)
    assert decoded.shape == (1, 3, *size.as_tuple())
    decoded.mean().backward()
    assert latents.grad is not None and latents.grad.abs().max() > 0


def test_normalising_is_undone(model: VideoModel, grid: LatentSize) -> None:
    raw_latents = _latents(model, grid)
    torch.testing.assert_close(model._denormalize(model._normalize(raw_latents)), raw_latents)


def test_illegal_sizes_are_refused_with_the_nearest_legal_one(model: VideoModel, grid: LatentSize) -> None:
    compression = model.spec.compression
    legal = compression.pixel_size(grid)
    frames, height, width = legal.as_tuple()
    for wrong in (
        PixelSize(frames + 1, height, width),
        PixelSize(frames, height + 1, width),
        PixelSize(frames, height, width - 1),
    ):
        with pytest.raises(ValueError, match=f"Nearest legal size: {legal}"):
            model.encode_video(torch.zeros(1, 3, *wrong.as_tuple()))
    patch = compression.patch
    if max(patch) > 1:
        with pytest.raises(ValueError, match=f"Nearest legal latent size: {grid}"):
            model.predict_velocity(
                _latents(model, LatentSize(grid.frames, grid.height + 1, grid.width)), 0.5, _prompt(model)
            )


@torch.no_grad()
def test_grids_up_to_the_last_position_run_and_larger_ones_are_refused(model: VideoModel) -> None:
    compression = model.spec.compression
    for axis, (step, most) in enumerate(zip(compression.patch, compression.limits, strict=True)):
        cells = list(compression.patch)
        cells[axis] = 70 * step if most is None else most
        largest = _latents(model, LatentSize(*cells))
        assert model.predict_velocity(largest, 0.5, _prompt(model)).shape == largest.shape
        if most is not None:
            cells[axis] += step
            with pytest.raises(ValueError, match=f"at most the {most} that the model's positions count"):
                model.predict_velocity(_latents(model, LatentSize(*cells)), 0.5, _prompt(model))


def _prompt(model: VideoModel, batch: int = 1) -> torch.Tensor:
    return model.encode_prompt(["a cat", "a dog that runs"][:batch])


@torch.no_grad()
def test_velocities(model: VideoModel, grid: LatentSize) -> None:
    noisy_latents, embeds = _latents(model, grid, batch=2), _prompt(model, batch=2)
    sigma = torch.tensor([0.95, 0.3])  # with two experts, one clip for each
    both = model.predict_velocity(noisy_latents, sigma, embeds)
    assert both.shape == noisy_latents.shape and both.dtype == torch.float32
    assert torch.equal(both, model.predict_velocity(noisy_latents, sigma, embeds))
    for row in range(2):
        alone = model.predict_velocity(noisy_latents[row : row + 1], float(sigma[row]), embeds[row : row + 1])
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both, model.predict_velocity(noisy_latents, 0.3, embeds))
    assert not torch.allclose(both, model.predict_velocity(noisy_latents, sigma, embeds.flip(0)))
    low = model.predict_velocity(noisy_latents.bfloat16(), sigma, embeds.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), both, rtol=0.1, atol=0.1)


def test_features_are_the_blocks_outputs_and_reach_latents_but_no_weights(
    model: VideoModel, grid: LatentSize
) -> None:
    model.transformer.requires_grad_(False)
    noisy_latents, embeds = _latents(model, grid, batch=2).requires_grad_(), _prompt(model, batch=2)
    sigma, last = torch.tensor([0.3, 0.95]), model.spec.num_blocks - 1
    tokens = model.features(noisy_latents, sigma, embeds, [last, 0])
    count = model.spec.compression.tokens(grid)
    assert [t.shape for t in tokens] == [(2, count, model.spec.hidden_size)] * 2
    alone = model.features(noisy_latents[1:], 0.95, embeds[1:], [last])[0]
    torch.testing.assert_close(tokens[0][1:], alone, rtol=1e-4, atol=1e-5)
    gradients = []
    for feature in tokens:
        (gradient,) = torch.autograd.grad(feature.square().mean(), noisy_latents, retain_graph=True)
        assert gradient.abs().amax(dim=(1, 2, 3, 4)).min() > 0
        gradients.append(gradient)
    assert not torch.allclose(gradients[0], gradients[1])
    assert all(p.grad is None for p in model.transformer.parameters())
    for wrong in ([], [-1], [last + 1]):
        with pytest.raises(ValueError, match=f"expected at least one index from 0 to {last}"):
            model.features(noisy_latents, sigma, embeds, wrong)


def test_clips_are_sampled_scalewise(model: VideoModel, grid: LatentSize) -> None:
    patch = model.spec.compression.patch
    first = LatentSize(patch[0], patch[1], patch[2])
    schedule = ScaleSchedule((Stage(1.0, first), Stage(0.6, grid)))
    seen: list[torch.Tensor] = []
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    clips = sample_clips(
        model,
        schedule,
        ["a cat", "a dog that runs"],
        upsample=model.resize_latents,
        generator=generators,
        on_stage=lambda _, x0: seen.append(x0),
    )
    assert clips.shape == (2, 3, *model.spec.compression.pixel_size(grid).as_tuple())
    assert clips.abs().max() <= 1 and clips.std() > 0
    assert [tuple(x0.shape[2:]) for x0 in seen] == [first.as_tuple(), grid.as_tuple()]
    alone = sample_clips(
        model,
        schedule,
        ["a dog that runs"],
        upsample=model.resize_latents,
        generator=[torch.Generator().manual_seed(2)],
    )
    torch.testing.assert_close(alone, clips[1:], rtol=1e-3, atol=1e-3)
    noise = torch.randn(
        1, model.spec.latent_channels, *first.as_tuple(), generator=generators[0].manual_seed(1)
    )
    velocity = model.predict_velocity(noise, 1.0, model.encode_prompt(["a cat"]))
    torch.testing.assert_close(seen[0][:1], x0_from_velocity(noise, velocity, 1.0), rtol=1e-4, atol=1e-5)


def test_a_schedule_that_does_not_fit_is_refused(tiny_pipe: Callable[[str], Any]) -> None:
    model = adapter_for("WanPipeline").from_pipeline(tiny_pipe("wan"))
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 2, 3)), Stage(0.5, LatentSize(1, 4, 4))))
    with pytest.raises(ValueError, match=r"schedule\[0\]: .* Nearest legal latent size: 1x2x2"):
        schedule.tokens(model.spec.compression)
