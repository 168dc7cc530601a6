"""Guidance away from a weaker self."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swd_video.core.grid import LatentSize
from swd_video.models.base import VideoModel
from swd_video.models.guidance import Guidance, WeakerSelf, identity_of
from swd_video.models.loading import LoadOptions, load_teacher
from swd_video.models.sections import WeakerSelfConfig
from swd_video.models.teacher_sampling import sample_teacher
from swd_video.models.wan import WanModel


def _inputs(model: VideoModel, grid: LatentSize, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, model.spec.latent_channels, *grid.as_tuple(), generator=generator)
    return latents, model.encode_prompt(["a cat", "a dog that runs"][:batch])


def _shortened(network: nn.Module, leave_out: int) -> nn.Module:
    """A copy of a transformer whose lists of blocks, taken one after the other, lack a block."""
    copied = copy.deepcopy(network)
    places = [
        (blocks, index)
        for blocks in copied.children()
        if isinstance(blocks, nn.ModuleList)
        for index in range(len(blocks))
    ]
    blocks, index = places[leave_out]
    del blocks[index]
    return copied


@torch.no_grad()
def test_a_block_that_is_left_out_might_not_be_there(model: VideoModel, grid: LatentSize) -> None:
    latents, embeds = _inputs(model, grid)
    whole = model.predict_velocity(latents, 0.5, embeds)
    networks = list(model._transformers(model.transformer))
    for block in range(model.spec.num_blocks):
        # At this level one of a pair runs: of A14B, the second.
        expected = model.predict_velocity(latents, 0.5, embeds, _shortened(networks[-1], block))
        with model.without_blocks([block]):
            assert torch.equal(model.predict_velocity(latents, 0.5, embeds), expected)
        assert not torch.equal(whole, expected)
    assert torch.equal(model.predict_velocity(latents, 0.5, embeds), whole)


@torch.no_grad()
def test_the_weaker_self_leads_at_its_noise_levels(model: VideoModel, grid: LatentSize) -> None:
    latents, embeds = _inputs(model, grid)
    weaker = WeakerSelf(WeakerSelfConfig(scale=2.5, blocks=(1,), sigma_min=0.3, sigma_max=0.6), model)
    own = model.predict_velocity(latents, 0.5, embeds)
    with model.without_blocks([1]):
        weak = model.predict_velocity(latents, 0.5, embeds)
    led = Guidance(weaker=weaker).velocity(model, latents, 0.5, embeds)
    torch.testing.assert_close(led, weak + 2.5 * (own - weak))
    assert torch.equal(
        Guidance(weaker=weaker).velocity(model, latents, 0.7, embeds),
        model.predict_velocity(latents, 0.7, embeds),
    )
    levels = torch.tensor([0.7, 0.5])
    mixed = Guidance(weaker=weaker).velocity(model, latents, levels, embeds)
    torch.testing.assert_close(mixed[:1], model.predict_velocity(latents, levels, embeds)[:1])
    torch.testing.assert_close(mixed[1:], led[1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_both_kinds_of_guidance_add_up(model: VideoModel, grid: LatentSize) -> None:
    latents, embeds = _inputs(model, grid)
    weaker = WeakerSelf(WeakerSelfConfig(scale=2, blocks=(0,)), model)
    own = model.predict_velocity(latents, 0.5, embeds)
    away = model.predict_velocity(latents, 0.5, embeds.flip(0))
    with model.without_blocks([0]):
        weak = model.predict_velocity(latents, 0.5, embeds)
    got = Guidance(3, embeds.flip(0), weaker).velocity(model, latents, 0.5, embeds)
    torch.testing.assert_close(got, away + 3 * (own - away) + (own - weak))


@torch.no_grad()
def test_a_teacher_is_sampled_so(model: VideoModel, grid: LatentSize) -> None:
    _, embeds = _inputs(model, grid)

    def sample(weaker: WeakerSelfConfig | None) -> Tensor:
        weak = None if weaker is None else WeakerSelf(weaker, model)
        generator = torch.Generator().manual_seed(1)
        return sample_teacher(
            model, embeds, grid, steps=2, guidance_scale=1, shift=3.0, generator=generator, weaker=weak
        )

    plain = sample(None)
    assert not torch.equal(sample(WeakerSelfConfig(scale=2, blocks=(1,))), plain)
    assert torch.equal(sample(WeakerSelfConfig(scale=2, blocks=(1,), sigma_max=0.1)), plain)


@torch.no_grad()
def test_earlier_weights_are_a_weaker_self(
    tmp_path: Path, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    model = WanModel.from_pipeline(tiny_pipe("wan"))
    latents, embeds = _inputs(model, tiny_family("wan").grid)
    file = tmp_path / "earlier.safetensors"
    save_file(model.transformer.state_dict(), file)
    config = WeakerSelfConfig(scale=3, transformer_file=file)
    own = model.predict_velocity(latents, 0.5, embeds)
    assert torch.equal(Guidance(weaker=WeakerSelf(config, model)).velocity(model, latents, 0.5, embeds), own)
    before = identity_of(config)
    save_file({name: 0.9 * weight for name, weight in model.transformer.state_dict().items()}, file)
    led = Guidance(weaker=WeakerSelf(config, model)).velocity(model, latents, 0.5, embeds)
    assert not torch.allclose(led, own) and identity_of(config) != before


@torch.no_grad()
def test_a_single_file_is_in_the_precision_of_its_folder(
    tiny_wan_folder: Path, tmp_path: Path, tiny_family: Callable[[str], Any]
) -> None:
    """Norms and the like stay in float32, whatever the rest is in."""
    file = tmp_path / "own.safetensors"
    save_file(load_teacher(tiny_wan_folder).transformer.state_dict(), file)
    model = load_teacher(tiny_wan_folder, dtype=torch.bfloat16)
    dtypes = {name: weight.dtype for name, weight in model.transformer.state_dict().items()}
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    single = load_teacher(
        tiny_wan_folder, dtype=torch.bfloat16, options=LoadOptions(transformer_file=file)
    ).transformer
    assert {name: weight.dtype for name, weight in single.state_dict().items()} == dtypes
    latents, embeds = _inputs(model, tiny_family("wan").grid)
    weaker = WeakerSelf(WeakerSelfConfig(scale=3, transformer_file=file), model)
    led = Guidance(weaker=weaker).velocity(model, latents, 0.5, embeds)
    assert torch.equal(led, model.predict_velocity(latents, 0.5, embeds))


def test_what_cannot_be_is_refused(tmp_path: Path, tiny_pipe: Callable[[str], Any]) -> None:
    model = WanModel.from_pipeline(tiny_pipe("wan"))
    with pytest.raises(ValueError, match=r"weaker.blocks: got 9, expected 0 to 2, the blocks of the model"):
        WeakerSelf(WeakerSelfConfig(blocks=(1, 9)), model)
    with pytest.raises(ValueError, match=r"missing.safetensors: does not exist"):
        WeakerSelf(WeakerSelfConfig(transformer_file=tmp_path / "missing.safetensors"), model)
    with pytest.raises(ValueError, match="say what makes the weaker version weaker"):
        WeakerSelfConfig(scale=2)
    with pytest.raises(ValueError, match=r"sigma_min: got 0.7, expected at most sigma_max, 0.5"):
        WeakerSelfConfig(blocks=(0,), sigma_min=0.7, sigma_max=0.5)
    with pytest.raises(ValueError, match=r"blocks: got \[1, 1\], expected each block once"):
        WeakerSelfConfig(blocks=(1, 1))
    file = tmp_path / "weights.safetensors"
    save_file(model.transformer.state_dict(), file)
    with pytest.raises(ValueError, match="has two transformers; name blocks instead"):
        WeakerSelf(WeakerSelfConfig(transformer_file=file), WanModel.from_pipeline(tiny_pipe("wan-a14b")))
