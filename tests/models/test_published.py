"""The published models' configurations, on the meta device: no weights, no memory.

Counts marked as known were found stated elsewhere, digit by digit: Wan's in public code that loads the published
files, those of LTX-Video 0.9 and CogVideoX-5b in the logs of the finetrainers project. For the others we found no
such figure: their counts are held to the size in the model's name only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, CogVideoXDDIMScheduler

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import PixelSize
from swd_video.models.published_decoders import published_layout


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        family: in conftest.py, whose classes it uses.
        transformer: what its config.json says beyond diffusers' defaults.
        count: parameters of one transformer.
        known: whether that count is known, or only its order of magnitude.
        size: of a clip it was made for.
        tokens: that the transformer sees of it.
        vae: likewise, beyond the defaults.
        fps: of that clip.
        pipeline: what its model_index.json says.
        decoder: the file of TAEHV for its latents, channels, frames and pixels of a latent, and its weights, of which
            counts are known from TAEHV's own code.
    """

    family: str
    transformer: dict[str, Any]
    count: float
    known: bool
    size: str
    tokens: int
    fps: float
    vae: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    decoder: tuple[str, int, int, int, int] | None = None


_TAEW2_1 = ("taew2_1", 16, 4, 8, 9_844_611)
_TAECVX = ("taecvx", 16, 4, 8, 9_844_611)
_WAN_14B = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
_TI2V_VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
_COG_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_COG_1_5 = {
    **_COG_5B,
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_frames": 81,
    "sample_height": 300,
    "sample_width": 300,
}

PUBLISHED = {
    "Wan2.1-T2V-1.3B": Published(
        "wan",
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        1_418_996_800,
        True,
        "81x480x832",
        32760,
        16,
        decoder=_TAEW2_1,
    ),
    "Wan2.1-T2V-14B": Published(
        "wan", _WAN_14B, 14_288_491_584, True, "81x720x1280", 75600, 16, decoder=_TAEW2_1
    ),
    "Wan2.2-TI2V-5B": Published(
        "wan-ti2v",
        {
            "num_attention_heads": 24,
            "ffn_dim": 14336,
            "num_layers": 30,
            "in_channels": 48,
            "out_channels": 48,
        },
        4_999_787_712,
        True,
        "121x704x1280",
        27280,
        24,
        _TI2V_VAE,
        {"expand_timesteps": True},
        ("taew2_2", 48, 4, 16, 9_923_532),
    ),
    "Wan2.2-T2V-A14B": Published(
        "wan-a14b",
        _WAN_14B,
        14_288_491_584,
        True,
        "81x720x1280",
        75600,
        16,
        {},
        {"boundary_ratio": 0.875},
        _TAEW2_1,
    ),
    "LTX-Video-0.9": Published("ltx", {}, 1_923_385_472, True, "161x512x704", 7392, 25),
    "LTX-Video-0.9.7-13B": Published(
        "ltx",
        {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
        13e9,
        False,
        "121x512x768",
        6144,
        25,
    ),
    "HunyuanVideo": Published(
        "hunyuan", {}, 13e9, False, "129x720x1280", 118800, 24, decoder=("taehv", 16, 4, 8, 9_844_611)
    ),
    "CogVideoX-2b": Published("cogvideox", {}, 1.7e9, False, "49x480x720", 17550, 8, decoder=_TAECVX),
    "CogVideoX-5b": Published(
        "cogvideox", _COG_5B, 5_570_283_072, True, "49x480x720", 17550, 8, decoder=_TAECVX
    ),
    "CogVideoX1.5-5B": Published(
        "cogvideox-1.5", _COG_1_5, 5.57e9, False, "81x768x1360", 44880, 16, decoder=_TAECVX
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(
    name: str, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    published, family = PUBLISHED[name], tiny_family(PUBLISHED[name].family)
    tiny = tiny_pipe(published.family)
    with torch.device("meta"):
        transformer = type(tiny.transformer)(**published.transformer)
        parts = {"transformer": transformer, "vae": type(tiny.vae)(**published.vae)}
        if "transformer_2" in tiny.components and tiny.transformer_2 is not None:
            parts["transformer_2"] = type(tiny.transformer)(**published.transformer)
    pipe = type(tiny)(**{**tiny.components, **parts, **published.pipeline})
    model = family.adapter.from_pipeline(pipe, **family.extras)

    count = sum(p.numel() for p in transformer.parameters())
    assert count == published.count if published.known else abs(count / published.count - 1) < 0.03
    experts = 2 if "transformer_2" in parts else 1
    assert sum(p.numel() for p in model.transformer.parameters()) == experts * count
    size, compression = PixelSize.parse(published.size), model.spec.compression
    assert compression.tokens(compression.latent_size(size)) == published.tokens
    assert model.spec.fps == published.fps
    assert model.spec.text_dim == 4096
    assert model.spec.latent_channels == pipe.vae.config.get("z_dim", pipe.vae.config.get("latent_channels"))
    if published.decoder is None:
        assert model.published_decoder is None
        with pytest.raises(
            ValueError, match=f"publishes no decoder for the latents of this {model.family} model"
        ):
            published_layout(model)
        return
    with torch.device("meta"):
        decoder = StreamingDecoder(published_layout(model))
    weights = sum(p.numel() for p in decoder.parameters())
    layout = decoder.layout
    assert published.decoder == (
        model.published_decoder,
        layout.channels,
        layout.temporal,
        layout.spatial,
        weights,
    )
    assert (layout.temporal, layout.spatial) == (compression.temporal, compression.spatial)


def test_the_vae_of_wan_2_1_has_its_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in AutoencoderKLWan().parameters()) == 126_892_531


def test_published_noise_tables_end_without_signal() -> None:
    """CogVideoX-2b shifts its noise by 3, CogVideoX-5b by 1: the clean ends differ, the noisy ends do not."""
    for shift in (3.0, 1.0):
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=shift
        )
        assert scheduler.alphas_cumprod[-1] == 0
