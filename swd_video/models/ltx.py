"""LTX-Video text-to-video models, through the components of diffusers' `LTXPipeline`.

The VAE shrinks pictures 32-fold and time 8-fold, so that one latent cell is one token. Positions are given in
seconds and pixels, hence the frame rate.

Folders that call themselves `LTXConditionPipeline` (LTX-Video 0.9.5 and later) hold models that were trained otherwise:
a latent frame's position is the time of its first frame, `max(0, 8 f - 7)` frames, where older models have `8 f`;
prompts have 256 tokens, not 128; and steps follow a schedule that is linear, then quadratic. From 0.9.1 on the decoder
takes out a last bit of noise, which it is told and which must be there.

Source: LTX-Video: Realtime Video Latent Diffusion (arXiv 2501.00103).
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from diffusers import LTXConditionPipeline, LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift, retrieve_timesteps
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from diffusers.utils.torch_utils import get_module_execution_device
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma, fit_shift, sigma_per_clip
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_generator, keyed_global
from swd_video.core.sampling import draw_noise
from swd_video.models.base import VideoModel, unwrap
from swd_video.models.positions import position_factor

_FPS = 25.0
_STEPS = 50
_TEXT_LENGTH = 128
_CONDITION_TEXT_LENGTH = 256
# What Lightricks' own configurations have for decoders that are told a noise level.
_DECODE_TIMESTEP = 0.05
_DECODE_NOISE = 0.025
_DECODE_KEY = ("ltx", "decode")


class LtxModel(VideoModel):
    """The components of an `LTXPipeline`, with its conventions for text, latents and positions.

    Args:
        pipe: an `LTXPipeline`, or one of its like for pictures, which has the same parts.
        decode_timestep: noise level that decoders from LTX-Video 0.9.1 on are told, in [0, 1]; default 0.05.
        decode_noise: share of noise that the latents get for it, in [0, 1]; default 0.025. The same noise for every
            clip of a size, so that clips repeat.
        facts: as for every `VideoModel`; the transformer is told the frame rate.
    """

    family = "ltx"
    takes_first_frame = True
    can_rescale_positions = True
    pipeline_class = LTXPipeline
    # All of the same parts; a picture or several to start from are an argument, not a part.
    attention_mask = "additive"
    self_attention = "attn1"
    guidance_scale = 3.0
    settings = ("decode_timestep", "decode_noise")

    def __init__(
        self,
        pipe: Any,
        *,
        decode_timestep: float | int | None = None,
        decode_noise: float | int | None = None,
        **facts: Any,
    ) -> None:
        self._is_condition = isinstance(pipe, LTXConditionPipeline)
        super().__init__(pipe, **facts)
        for name, level in (("decode_timestep", decode_timestep), ("decode_noise", decode_noise)):
            if level is not None and not self.vae.config.timestep_conditioning:
                raise ValueError(
                    f"{name}: got {level:g}, but this VAE decodes without noise (LTX-Video 0.9.0); leave it out."
                )
        self.decode_timestep = _DECODE_TIMESTEP if decode_timestep is None else decode_timestep
        self.decode_noise = _DECODE_NOISE if decode_noise is None else decode_noise

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts as `LTXPipeline` does, with zeros for the tokens that its mask hides."""
        prompt_embeds, mask, _, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.spec.text_length
        )
        return prompt_embeds * mask.unsqueeze(-1)

    def _text_length(self) -> int:
        # Not the tokenizer's own limit: folders of every version say 128, and T5 knows none.
        return _CONDITION_TEXT_LENGTH if self._is_condition else _TEXT_LENGTH

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

    def _as_vae_takes(self, latents: Tensor) -> Tensor:
        # As the pipelines do it: in float32, and the rest in the VAE's dtype.
        latents = latents.to(get_module_execution_device(self.vae), torch.float32)
        return self._denormalize(latents).to(self.vae.dtype)

    def _decode_raw(self, raw_latents: Tensor) -> Tensor:
        if self.vae.use_slicing and len(raw_latents) > 1:
            # diffusers' own slices lose what clips are told of noise.
            return torch.cat([self._decode_raw(one) for one in raw_latents.split(1)])
        level = None
        if self.vae.config.timestep_conditioning:
            level = raw_latents.new_full((len(raw_latents),), self.decode_timestep)
            share = raw_latents.new_full((len(raw_latents), 1, 1, 1, 1), self.decode_noise)
            noise = draw_noise(
                (1, *raw_latents.shape[1:]),
                generator=keyed_generator(*_DECODE_KEY),
                device=raw_latents.device,
            )
            raw_latents = (1 - share) * raw_latents + share * noise.to(raw_latents.dtype)
        # What decoders of 0.9.1 draw from torch's global state is always the same.
        is_drawn = any(self.vae.config.decoder_inject_noise)
        with keyed_global(*_DECODE_KEY, device=raw_latents.device) if is_drawn else nullcontext():
            return self.vae.decode(raw_latents, level, return_dict=False)[0]

    def noise_shift(self, grid: LatentSize) -> float | None:
        """What fits the levels of fifty steps best: they are stretched to an end, or linear and then quadratic."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        self._set_timesteps(scheduler, _STEPS, grid, "cpu")
        return fit_shift(scheduler.sigmas[:-1].flip(0))

    def _set_timesteps(self, scheduler: Any, steps: int, grid: LatentSize, device: Any = None) -> None:
        device = self.device if device is None else device
        if self._is_condition:
            timesteps = (linear_quadratic_schedule(steps) * 1000).numpy()
            # Both, which is the same as the pipeline's timesteps alone, but for a line on stderr.
            scheduler.set_timesteps(timesteps=timesteps, sigmas=timesteps / 1000, device=device)
            return
        config = scheduler.config
        shift = calculate_shift(
            grid.frames * grid.height * grid.width,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        sigmas = np.linspace(1.0, 1 / steps, steps)
        retrieve_timesteps(scheduler, steps, device, sigmas=sigmas, mu=shift)

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        inner = unwrap(network)
        prompt_embeds = prompt_embeds.to(noisy_latents.device, inner.dtype)
        return {
            "hidden_states": rearrange(noisy_latents, "b c f h w -> b (f h w) c").to(inner.dtype),
            "encoder_hidden_states": prompt_embeds,
            "encoder_attention_mask": (prompt_embeds != 0).any(dim=-1),
            "timestep": sigma_per_clip(sigma, noisy_latents) * 1000,
            **self._coordinates(noisy_latents),
        }

    def _coordinates(self, noisy_latents: Tensor) -> dict[str, Any]:
        """Where and when tokens are, in the transformer's keyword arguments."""
        batch, _, frames, height, width = noisy_latents.shape
        temporal, spatial = self.spec.compression.temporal, self.spec.compression.spatial
        factor = position_factor(frames, self.full_frames)
        if not self._is_condition:
            scale = (temporal / self.spec.fps * factor, spatial, spatial)
            return {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": scale}
        device = noisy_latents.device
        first_shown = (temporal * factor * torch.arange(frames, device=device) + 1 - temporal).clamp(min=0)
        axes = (
            first_shown * (1.0 / self.spec.fps),
            spatial * torch.arange(height, device=device).float(),
            spatial * torch.arange(width, device=device).float(),
        )
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return {"video_coords": rearrange(grid, "d f h w -> 1 d (f h w)").expand(batch, -1, -1)}

    def _to_velocity(self, output: Tensor, noisy_latents: Tensor, sigma: Sigma) -> Tensor:
        _, _, frames, height, _ = noisy_latents.shape
        return rearrange(output, "b (f h w) c -> b c f h w", f=frames, h=height)

    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        return list(inner.transformer_blocks), inner.norm_out
