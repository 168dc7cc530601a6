"""A tiny, random, but real pipeline of every family, and the adapter over it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    WanPipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from swd_video.core.grid import LatentSize
from swd_video.models.base import VideoModel
from swd_video.models.cogvideox import CogVideoXModel
from swd_video.models.hunyuan import HunyuanVideoModel
from swd_video.models.ltx import LtxModel
from swd_video.models.wan import WanModel

from ..fixtures import build_tiny_transformer

# What a prompt is wrapped in, short enough for a tokenizer that has a token for every byte.
_TEMPLATE = {"template": "Show: {}", "crop_start": 6}


def _tiny_t5(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0
    )
    return T5EncoderModel(config).eval()


def _tiny_ti2v(wan: WanPipeline) -> WanPipeline:
    """Wan 2.2 TI2V-5B: a VAE with residual blocks over patches of pixels, 16 x in space; a timestep for each token."""
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=6,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 6,
        latents_std=[0.5] * 6,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return _wan(wan, vae=vae, transformer=build_tiny_transformer(6), expand_timesteps=True)


def _tiny_a14b(wan: WanPipeline) -> WanPipeline:
    return _wan(wan, transformer_2=build_tiny_transformer(4), boundary_ratio=0.875)


def _wan(wan: WanPipeline, **changes: Any) -> WanPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return WanPipeline(**{**wan.components, "scheduler": scheduler, **changes})


def _tiny_ltx(wan: WanPipeline) -> LTXPipeline:
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    vae.latents_mean.copy_(torch.linspace(-1, 1, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 8))
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=3,
        caption_channels=16,
    )
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=_tiny_t5(wan.tokenizer),
        tokenizer=wan.tokenizer,
        transformer=transformer,
    )


def _tiny_ltx_condition(wan: WanPipeline) -> LTXConditionPipeline:
    """LTX-Video 0.9.5 in its class and scheduler, with 0.9.1's decoder, which is told a noise level and draws noise."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(False, True, True, True),
        upsample_residual=(True, True, True),
        upsample_factor=(2, 2, 2),
        timestep_conditioning=True,
    )
    parts = {**_tiny_ltx(wan).components, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler()}
    return LTXConditionPipeline(**parts)


def _tiny_hunyuan(wan: WanPipeline) -> HunyuanVideoPipeline:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    shared = {"vocab_size": len(wan.tokenizer), "intermediate_size": 16, "num_attention_heads": 2}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    llama = LlamaConfig(hidden_size=16, num_hidden_layers=3, **shared, **tokens)
    clip = CLIPTextConfig(hidden_size=8, num_hidden_layers=1, **shared, **tokens)
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(llama),
        tokenizer=wan.tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(clip),
        tokenizer_2=copy.deepcopy(wan.tokenizer),
    )


def _tiny_cogvideox(wan: WanPipeline, **changes: Any) -> CogVideoXPipeline:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 16,
        "num_layers": 3,
        "sample_width": 8,
        "sample_height": 6,
        "sample_frames": 9,
        "max_text_seq_length": 226,
    }
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=48,
        sample_width=64,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return CogVideoXPipeline(
        tokenizer=wan.tokenizer,
        text_encoder=_tiny_t5(wan.tokenizer),
        vae=vae,
        transformer=CogVideoXTransformer3DModel(**{**config, **changes}),
        scheduler=scheduler,
    )


def _tiny_cogvideox_1_5(wan: WanPipeline) -> CogVideoXPipeline:
    return _tiny_cogvideox(wan, patch_size_t=2, use_rotary_positional_embeddings=True, patch_bias=False)


@dataclass(frozen=True)
class TinyFamily:
    """How a family is built for tests.

    Attributes:
        build: makes its pipeline from the parts of a tiny Wan pipeline.
        adapter: its adapter.
        grid: a small legal grid of latents.
        extras: what the adapter is told besides.
    """

    build: Callable[[WanPipeline], Any]
    adapter: type[VideoModel]
    grid: LatentSize
    extras: dict[str, Any]


FAMILIES = {
    "wan": TinyFamily(_wan, WanModel, LatentSize(3, 4, 6), {}),
    "wan-ti2v": TinyFamily(_tiny_ti2v, WanModel, LatentSize(3, 4, 6), {}),
    "wan-a14b": TinyFamily(_tiny_a14b, WanModel, LatentSize(3, 4, 6), {}),
    "ltx": TinyFamily(_tiny_ltx, LtxModel, LatentSize(3, 2, 3), {}),
    "ltx-condition": TinyFamily(_tiny_ltx_condition, LtxModel, LatentSize(3, 2, 3), {}),
    "hunyuan": TinyFamily(
        _tiny_hunyuan,
        HunyuanVideoModel,
        LatentSize(3, 4, 6),
        {"prompt_template": _TEMPLATE, "text_length": 40},
    ),
    "cogvideox": TinyFamily(_tiny_cogvideox, CogVideoXModel, LatentSize(3, 4, 6), {}),
    "cogvideox-1.5": TinyFamily(_tiny_cogvideox_1_5, CogVideoXModel, LatentSize(4, 4, 6), {}),
}


@pytest.fixture
def tiny_family() -> Callable[[str], TinyFamily]:
    """Look a family up by name."""
    return FAMILIES.__getitem__


@pytest.fixture
def tiny_pipe(tiny_wan_pipe: WanPipeline) -> Callable[[str], Any]:
    """Build the pipeline of a family; the same weights at every call."""

    def build(name: str) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            pipe = FAMILIES[name].build(tiny_wan_pipe)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family in turn."""
    return str(request.param)


@pytest.fixture
def model(family: str, tiny_pipe: Callable[[str], Any]) -> VideoModel:
    """The adapter of the family in turn."""
    entry = FAMILIES[family]
    return entry.adapter.from_pipeline(tiny_pipe(family), **entry.extras)


@pytest.fixture
def grid(family: str) -> LatentSize:
    """A small grid that the family in turn can take."""
    return FAMILIES[family].grid


@pytest.fixture
def save_tiny(tiny_pipe: Callable[[str], Any], tmp_path: Path) -> Callable[[str], Path]:
    """Save the pipeline of a family as a folder and return the folder."""

    def save(name: str) -> Path:
        folder = tmp_path / name
        tiny_pipe(name).save_pretrained(folder)
        return folder

    return save
