import copy

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from torch.nn.parallel import DistributedDataParallel

from swd_video.core.grid import Compression, LatentSize, PixelSize
from swd_video.core.resize import resize_pixels
from swd_video.models.base import VideoModel
from swd_video.models.wan import WanModel

TEXT_LENGTH = 48


@pytest.fixture
def model(tiny_wan_pipe: WanPipeline) -> WanModel:
    return WanModel.from_pipeline(tiny_wan_pipe, fps=12, training_size=PixelSize(9, 48, 64))


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _clip(frames: int = 9, height: int = 48, width: int = 64, batch: int = 1) -> torch.Tensor:
    return _random(batch, 3, frames, height, width).clamp(-1, 1)


def test_spec_comes_from_the_configs(model: WanModel) -> None:
    assert isinstance(model, VideoModel)
    spec = model.spec
    assert (spec.family, spec.fps, spec.training_size) == ("wan", 12.0, PixelSize(9, 48, 64))
    # Rotary tables of 64 positions: as many latent frames, and cells of two latents in space.
    assert spec.compression == Compression(temporal=4, spatial=8, patch=(1, 2, 2), limits=(64, 128, 128))
    assert (spec.latent_channels, spec.hidden_size, spec.num_blocks) == (4, 32, 3)
    assert (spec.text_length, spec.text_dim) == (TEXT_LENGTH, 16)
    assert model.device == torch.device("cpu")


def test_prompts_are_embedded_as_the_pipeline_does_and_end_in_zeros(
    model: WanModel, tiny_wan_pipe: WanPipeline
) -> None:
    prompts = ["a cat", "a much  longer prompt about a dog &amp; a cat"]
    embeds = model.encode_prompt(prompts)
    assert embeds.shape == (2, TEXT_LENGTH, 16) and not embeds.requires_grad
    expected = tiny_wan_pipe._get_t5_prompt_embeds(prompts, max_sequence_length=TEXT_LENGTH)
    assert torch.equal(embeds, expected)
    tokens = len("a cat") + 1  # one token a byte, and the end
    assert embeds[0, :tokens].abs().sum(dim=1).min() > 0
    assert embeds[0, tokens:].abs().max() == 0
    # Padding to the longest prompt of a batch must not leak into the shorter one.
    torch.testing.assert_close(embeds[:1], model.encode_prompt(prompts[:1]))


def test_video_is_encoded_by_mode_and_normalised(model: WanModel, tiny_wan_pipe: WanPipeline) -> None:
    pixels = _clip()
    latents = model.encode_video(pixels)
    assert latents.shape == (1, 4, 3, 6, 8) and latents.dtype == torch.float32
    assert torch.equal(latents, model.encode_video(pixels))
    config = tiny_wan_pipe.vae.config
    raw_latents = tiny_wan_pipe.vae.encode(pixels).latent_dist.mean
    for channel in range(4):
        expected = (raw_latents[:, channel] - config.latents_mean[channel]) / config.latents_std[channel]
        torch.testing.assert_close(latents[:, channel], expected)


def test_normalising_is_undone(model: WanModel) -> None:
    raw_latents = _random(2, 4, 3, 4, 4)
    back = model._denormalize(model._normalize(raw_latents))
    torch.testing.assert_close(back, raw_latents)


def test_pixels_are_decoded_as_the_pipeline_does(model: WanModel, tiny_wan_pipe: WanPipeline) -> None:
    embeds = model.encode_prompt(["a cat"])
    arguments = {
        "prompt_embeds": embeds,
        "height": 48,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
    }
    latents = tiny_wan_pipe(
        **arguments, generator=torch.Generator().manual_seed(3), output_type="latent"
    ).frames
    video = tiny_wan_pipe(**arguments, generator=torch.Generator().manual_seed(3), output_type="pt").frames
    pixels = model.decode(latents)
    assert pixels.shape == (1, 3, 9, 48, 64)
    assert torch.equal((pixels / 2 + 0.5).clamp(0, 1).transpose(1, 2), video)


def test_illegal_clips_are_refused(model: WanModel) -> None:
    with pytest.raises(ValueError, match="Nearest legal size: 9x48x64"):
        model.encode_video(_clip(frames=10))
    with pytest.raises(ValueError, match="Nearest legal size: 9x48x64"):
        model.encode_video(_clip(height=56))


def test_a_vae_that_patchifies_pixels(tiny_wan_pipe: WanPipeline) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            in_channels=12,
            out_channels=12,
            patch_size=2,
        )
    tiny_wan_pipe.register_modules(vae=vae)
    model = WanModel.from_pipeline(tiny_wan_pipe)
    latents = model.encode_video(_clip())
    assert tuple(latents.shape[2:]) == model.spec.compression.latent_size(PixelSize(9, 48, 64)).as_tuple()
    assert model.decode(latents).shape == (1, 3, 9, 48, 64)


def test_scale_factors_come_from_the_vae_s_config(tiny_wan_pipe: WanPipeline) -> None:
    tiny_wan_pipe.vae.register_to_config(scale_factor_spatial=16)
    model = WanModel.from_pipeline(tiny_wan_pipe)
    assert model.spec.compression.latent_size(PixelSize(9, 64, 96)) == LatentSize(3, 4, 6)


def test_velocity_is_the_transformer_s_at_a_thousand_sigma(
    model: WanModel, tiny_wan_pipe: WanPipeline
) -> None:
    noisy_latents, embeds = _random(2, 4, 3, 4, 4), _random(2, TEXT_LENGTH, 16)
    with torch.no_grad():
        got = model.predict_velocity(noisy_latents, 0.8, embeds)
        expected = tiny_wan_pipe.transformer(
            noisy_latents, torch.full((2,), 0.8) * 1000, embeds, return_dict=False
        )[0]
        each = model.predict_velocity(noisy_latents, torch.tensor([0.8, 0.3]), embeds)
    assert torch.equal(got, expected)
    torch.testing.assert_close(each[0], expected[0])
    assert not torch.allclose(each[1], expected[1])


def test_velocity_keeps_the_latents_dtype(model: WanModel) -> None:
    low = copy.deepcopy(model.transformer).to(torch.bfloat16)
    noisy_latents, embeds = _random(1, 4, 3, 4, 4), _random(1, TEXT_LENGTH, 16)
    got = model.predict_velocity(noisy_latents, 0.8, embeds, transformer=low)
    assert got.dtype == torch.float32
    full = model.predict_velocity(noisy_latents, 0.8, embeds)
    assert 0 < (got - full).abs().max() < 0.2


def test_a_timestep_per_token_changes_nothing_but_the_form(tiny_wan_pipe: WanPipeline) -> None:
    noisy_latents, embeds = _random(2, 4, 3, 4, 6), _random(2, TEXT_LENGTH, 16)
    sigma = torch.tensor([0.8, 0.3])
    plain = WanModel.from_pipeline(tiny_wan_pipe).predict_velocity(noisy_latents, sigma, embeds)
    tiny_wan_pipe.register_to_config(expand_timesteps=True)
    expanded = WanModel.from_pipeline(tiny_wan_pipe).predict_velocity(noisy_latents, sigma, embeds)
    torch.testing.assert_close(expanded, plain)


def test_features_are_what_the_blocks_put_out(model: WanModel, tiny_wan_pipe: WanPipeline) -> None:
    noisy_latents, embeds = _random(2, 4, 3, 4, 6), _random(2, TEXT_LENGTH, 16)
    seen: dict[int, torch.Tensor] = {}
    for index, block in enumerate(tiny_wan_pipe.transformer.blocks):
        block.register_forward_hook(lambda _m, _i, output, index=index: seen.__setitem__(index, output))
    model.predict_velocity(noisy_latents, 0.4, embeds)
    expected = dict(seen)
    for blocks in ([0], [1], [2], [2, 0], [1, 1]):
        got = model.features(noisy_latents, 0.4, embeds, blocks)
        assert len(got) == len(blocks)
        for index, tokens in zip(blocks, got, strict=True):
            assert tokens.shape == (2, 3 * 2 * 3, 32)
            assert torch.equal(tokens, expected[index])


def test_features_stop_after_the_last_asked_block_and_leave_no_hooks(model: WanModel) -> None:
    ran: list[str] = []
    for name, module in [(str(i), block) for i, block in enumerate(model.transformer.blocks)]:
        module.register_forward_hook(lambda _m, _i, _o, name=name: ran.append(name))
    model.transformer.proj_out.register_forward_hook(lambda _m, _i, _o: ran.append("out"))
    inputs = (_random(1, 4, 3, 4, 4), 0.4, _random(1, TEXT_LENGTH, 16))
    model.features(*inputs, [1])
    assert ran == ["0", "1"]
    ran.clear()
    model.features(*inputs, [2])
    assert ran == ["0", "1", "2"]
    ran.clear()
    model.predict_velocity(*inputs)
    assert ran == ["0", "1", "2", "out"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_latents(model: WanModel, checkpointing: bool) -> None:
    model.transformer.requires_grad_(False).train()
    if checkpointing:
        model.transformer.enable_gradient_checkpointing()
    noisy_latents = _random(1, 4, 3, 4, 4).requires_grad_()
    embeds = _random(1, TEXT_LENGTH, 16)

    def loss(latents: torch.Tensor) -> torch.Tensor:
        return model.features(latents, 0.4, embeds, [1])[0].mean(dim=1).pow(2).sum()

    loss(noisy_latents).backward()
    gradient = noisy_latents.grad
    assert gradient is not None and gradient.abs().max() > 0
    direction = _random(1, 4, 3, 4, 4, seed=1)
    step = 1e-2
    with torch.no_grad():
        change = loss(noisy_latents + step * direction) - loss(noisy_latents - step * direction)
    torch.testing.assert_close(change / (2 * step), (gradient * direction).sum(), rtol=0.02, atol=1e-4)
    assert all(parameter.grad is None for parameter in model.transformer.parameters())


@pytest.mark.parametrize("blocks", [[], [3], [-1]])
def test_blocks_that_do_not_exist_are_refused(model: WanModel, blocks: list[int]) -> None:
    with pytest.raises(ValueError, match="expected at least one index from 0 to 2"):
        model.features(_random(1, 4, 3, 4, 4), 0.4, _random(1, TEXT_LENGTH, 16), blocks)


def test_another_transformer_may_be_run(model: WanModel) -> None:
    student = copy.deepcopy(model.transformer)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    inputs = (_random(1, 4, 3, 4, 4), 0.4, _random(1, TEXT_LENGTH, 16))
    assert not torch.equal(
        model.predict_velocity(*inputs), model.predict_velocity(*inputs, transformer=student)
    )
    assert not torch.equal(
        model.features(*inputs, [1])[0], model.features(*inputs, [1], transformer=student)[0]
    )


def test_a_distributed_wrapper_is_seen_through(model: WanModel, tmp_path: object) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(copy.deepcopy(model.transformer))
        inputs = (_random(1, 4, 3, 4, 4), 0.4, _random(1, TEXT_LENGTH, 16))
        with torch.no_grad():
            assert torch.equal(
                model.predict_velocity(*inputs), model.predict_velocity(*inputs, transformer=wrapped)
            )
            assert torch.equal(
                model.features(*inputs, [1])[0], model.features(*inputs, [1], transformer=wrapped)[0]
            )
    finally:
        torch.distributed.destroy_process_group()


def test_decoding_builds_a_graph_only_for_latents_that_ask(model: WanModel) -> None:
    latents = _random(1, 4, 2, 4, 4)
    assert not model.decode(latents).requires_grad
    latents.requires_grad_()
    model.decode(latents).mean().backward()
    assert latents.grad is not None and latents.grad.abs().max() > 0


def test_every_grid_of_a_clip_can_be_encoded(model: WanModel) -> None:
    pixels = _clip(frames=17, height=64, width=64)
    for grid in (LatentSize(3, 4, 4), LatentSize(5, 6, 6), LatentSize(5, 8, 8)):
        small = resize_pixels(pixels, model.spec.compression.pixel_size(grid))
        assert tuple(model.encode_video(small).shape[2:]) == grid.as_tuple()


@torch.no_grad()
def test_of_two_transformers_the_noise_level_picks_one(tiny_wan_pipe: WanPipeline) -> None:
    low = copy.deepcopy(tiny_wan_pipe.transformer)
    for parameter in low.parameters():
        parameter.mul_(1.1)
    tiny_wan_pipe.register_modules(transformer_2=low)
    tiny_wan_pipe.register_to_config(boundary_ratio=0.875)
    model = WanModel.from_pipeline(tiny_wan_pipe)
    noisy_latents, embeds = _random(3, 4, 3, 4, 4), _random(3, TEXT_LENGTH, 16)
    for sigma, expert in ((1.0, model.pipe.transformer), (0.875, model.pipe.transformer), (0.874, low)):
        got = model.predict_velocity(noisy_latents, sigma, embeds)
        assert torch.equal(got, model.predict_velocity(noisy_latents, sigma, embeds, transformer=expert))
    sigma = torch.tensor([0.3, 0.9, 0.5])
    mixed = model.features(noisy_latents, sigma, embeds, [1])[0]
    for row, expert in enumerate((low, model.pipe.transformer, low)):
        inputs = noisy_latents[row : row + 1], sigma[row : row + 1], embeds[row : row + 1]
        torch.testing.assert_close(
            mixed[row : row + 1], model.features(*inputs, [1], transformer=expert)[0], rtol=1e-4, atol=1e-5
        )
    student = copy.deepcopy(model.transformer)
    assert len(list(student.parameters())) == 2 * len(list(low.parameters()))
