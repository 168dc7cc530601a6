"""LTX-Video text-to-video models, through the components of diffusers' `LTXPipeline`.

The VAE shrinks pictures 32-fold and time 8-fold, so that one latent cell is one token. Positions are given in
seconds and pixels, hence the frame rate.

Source: LTX-Video: Realtime Video Latent Diffusion (arXiv 2501.00103).
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import LTXPipeline
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma
from swd_video.models.base import VideoModel, sigma_per_clip, unwrap
from swd_video.models.positions import position_factor

_FPS = 25.0
_MAX_TEXT_LENGTH = 128


class LtxModel(VideoModel):
    """The components of an `LTXPipeline`, with its conventions for text, latents and positions.

    Args:
        pipe: any `LTXPipeline` for text to video.
        decode_timestep: noise level that decoders from LTX-Video 0.9.1 on are told, in [0, 1]. No noise is
            added to the latents, so that clips repeat.
        facts: as for every `VideoModel`; the transformer is told the frame rate.
    """

    family = "ltx"
    pipeline_class = LTXPipeline
    # All of the same parts; a picture or several to start from are an argument, not a part.
    pipeline_names = ("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline")
    attention_mask = "additive"

    def __init__(self, pipe: LTXPipeline, *, decode_timestep: float = 0.0, **facts: Any) -> None:
        super().__init__(pipe, **facts)
        self.decode_timestep = decode_timestep

    @property
    def takes_first_frame(self) -> bool:
        """True."""
        return True

    @property
    def can_rescale_positions(self) -> bool:
        """True."""
        return True

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts as `LTXPipeline` does, with zeros for the tokens that its mask hides."""
        prompt_embeds, mask, _, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.spec.text_length
        )
        return prompt_embeds * mask.unsqueeze(-1)

    def _text_length(self) -> int:
        return min(_MAX_TEXT_LENGTH, int(self.pipe.tokenizer.model_max_length))

    def _text_dim(self, config: Any) -> int:
        return int(config.caption_channels)

    def _fps(self) -> float:
        return _FPS

    def _normalize(self, raw_latents: Tensor) -> Tensor:
        vae = self.vae
        return self.pipe._normalize_latents(
            raw_latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )

    def _denormalize(self, latents: Tensor) -> Tensor:
        vae = self.vae
        return self.pipe._denormalize_latents(
            latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )

    def _decode_raw(self, raw_latents: Tensor) -> Tensor:
        level = None
        if self.vae.config.timestep_conditioning:
            level = raw_latents.new_full((len(raw_latents),), self.decode_timestep)
        return self.vae.decode(raw_latents, level, return_dict=False)[0]

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        inner = unwrap(network)
        _, _, frames, height, width = noisy_latents.shape
        compression = self.spec.compression
        prompt_embeds = prompt_embeds.to(noisy_latents.device, inner.dtype)
        return {
            "hidden_states": rearrange(noisy_latents, "b c f h w -> b (f h w) c").to(inner.dtype),
            "encoder_hidden_states": prompt_embeds,
            "encoder_attention_mask": (prompt_embeds != 0).any(dim=-1),
            "timestep": sigma_per_clip(sigma, noisy_latents) * 1000,
            "num_frames": frames,
            "height": height,
            "width": width,
            "rope_interpolation_scale": (
                compression.temporal / self.spec.fps * position_factor(frames, self.full_frames),
                compression.spatial,
                compression.spatial,
            ),
        }

    def _to_velocity(self, output: Tensor, noisy_latents: Tensor, sigma: Sigma) -> Tensor:
        _, _, frames, height, _ = noisy_latents.shape
        return rearrange(output, "b (f h w) c -> b c f h w", f=frames, h=height)

    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        return list(inner.transformer_blocks), inner.norm_out
