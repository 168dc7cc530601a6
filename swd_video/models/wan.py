"""Wan 2.1 and 2.2 text-to-video models, through the components of diffusers' `WanPipeline`.

Wan 2.2 comes as TI2V-5B, whose VAE shrinks pictures 16-fold and whose transformer takes a timestep for every
token (`expand_timesteps`), and as A14B, two transformers of which the noise level picks one.

Source: Wan: Open and Advanced Large-Scale Video Generative Models (arXiv 2503.20314).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from jaxtyping import Bool, Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma, sigma_per_clip
from swd_video.core.grid import Compression, LatentSize
from swd_video.core.local_attention import WindowsOfBlocks
from swd_video.models.base import ATTENTION_LAYERS, VideoModel, unwrap
from swd_video.models.positions import rescaled_positions

# What Wan 2.1 and A14B were trained with, and TI2V-5B; a folder that says otherwise has a `video_spec.json`.
_FPS = 16.0
_TI2V_FPS = 24.0
_MAX_TEXT_LENGTH = 512


class WanModel(VideoModel):
    """The components of a `WanPipeline`, with its conventions for text, latents and timesteps.

    Where there are two transformers, `transformer` is a `WanExperts` that holds both.
    """

    family = "wan"
    can_rescale_positions = True
    pipeline_class = WanPipeline
    self_attention = "attn1"
    stock_samples = True
    guidance_scale = 5.0
    lora_targets = (*ATTENTION_LAYERS, "ffn.net.0.proj", "ffn.net.2")

    def __init__(self, pipe: WanPipeline, **facts: Any) -> None:
        super().__init__(pipe, **facts)
        self.takes_first_frame = bool(pipe.config.expand_timesteps)  # TI2V-5B
        if pipe.transformer_2 is not None:
            self.transformer = WanExperts(pipe.transformer, pipe.transformer_2, pipe.config.boundary_ratio)

    def transformer_at(self, sigma: float) -> str:
        """Of A14B's two, the one whose range of noise holds the level."""
        if not isinstance(self.transformer, WanExperts) or sigma >= self.transformer.boundary_ratio:
            return "transformer"
        return "transformer_2"

    @property
    def published_decoder(self) -> str | None:
        """By the VAE: A14B has that of 2.1."""
        return {16: "taew2_1", 48: "taew2_2"}.get(self.spec.latent_channels)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts as `WanPipeline` does: cleaned, cut at the last token, zeros after it."""
        prompt_embeds, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.spec.text_length
        )
        return prompt_embeds

    def _compression(self) -> Compression:
        vae, config = self.vae.config, self.pipe.transformer.config
        patch = tuple(config.patch_size)
        # The rotary embedding is a table of so many tokens along each axis.
        limits = tuple(step * config.rope_max_seq_len for step in patch)
        return Compression(vae.scale_factor_temporal, vae.scale_factor_spatial, patch, limits)

    def _latent_channels(self) -> int:
        return int(self.vae.config.z_dim)

    def _text_length(self) -> int:
        return min(_MAX_TEXT_LENGTH, int(self.pipe.tokenizer.model_max_length))

    def _text_dim(self, config: Any) -> int:
        return int(config.text_dim)

    def _fps(self) -> float:
        return wan_fps(self.pipe.config.expand_timesteps)

    def _normalize(self, raw_latents: Tensor) -> Tensor:
        mean, inverse_std = self._statistics(raw_latents)
        return (raw_latents - mean) * inverse_std

    def _denormalize(self, latents: Tensor) -> Tensor:
        mean, inverse_std = self._statistics(latents)
        return latents / inverse_std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(like.device, like.dtype)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, 1.0 / std

    def _decode_raw_in_parts(self, raw_latents: Tensor) -> Iterator[Tensor]:
        # As its `decode` does, which would keep all frames: its convolutions remember what they need.
        vae = self.vae
        vae.clear_cache()
        memory = vae._feat_map
        vae.clear_cache()  # so that the memory ends with the clip
        for index, frame in enumerate(vae.post_quant_conv(raw_latents).split(1, dim=2)):
            pixels = vae.decoder(frame, feat_cache=memory, feat_idx=[0], first_chunk=index == 0)
            if vae.config.patch_size is not None:
                pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
            yield pixels.clamp(-1, 1)

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        inner = unwrap(network)
        timestep = sigma_per_clip(sigma, noisy_latents) * 1000
        if self.pipe.config.expand_timesteps:
            tokens = self.spec.compression.tokens(LatentSize(*noisy_latents.shape[2:]))
            timestep = timestep.unsqueeze(1).expand(-1, tokens)
        return {
            "hidden_states": noisy_latents.to(inner.dtype),
            "timestep": timestep,
            "encoder_hidden_states": prompt_embeds.to(noisy_latents.device, inner.dtype),
        }

    def _capture(
        self,
        network: nn.Module,
        noisy_latents: Tensor,
        sigma: Sigma,
        prompt_embeds: Tensor,
        blocks: Sequence[int],
    ) -> list[Tensor]:
        experts = unwrap(network)
        if not isinstance(experts, WanExperts):
            return super()._capture(network, noisy_latents, sigma, prompt_embeds, blocks)
        levels = sigma_per_clip(sigma, noisy_latents)
        rows: list[Tensor] = []
        parts: list[list[Tensor]] = []
        for expert, chosen in experts.split(levels * 1000):
            arguments = noisy_latents[chosen], levels[chosen], prompt_embeds[chosen], blocks
            parts.append(super()._capture(expert, *arguments))
            rows.append(chosen.nonzero().flatten())
        order = torch.cat(rows).argsort()
        return [torch.cat(tokens)[order] for tokens in zip(*parts, strict=True)]

    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        return list(inner.blocks), inner.norm_out

    def _transformers(self, inner: Any) -> Iterable[Any]:
        return inner.children() if isinstance(inner, WanExperts) else (inner,)

    @contextmanager
    def _positions(self, inner: Any) -> Iterator[None]:
        with ExitStack() as contexts:
            for network in self._transformers(inner):
                rope = network.rope
                patch = rope.patch_size[0]
                contexts.enter_context(
                    rescaled_positions(rope, self.full_frames, patch=patch, channels=rope.t_dim)
                )
            yield

    @contextmanager
    def _attention(self, inner: Any, windows_of: WindowsOfBlocks | None, latents: Tensor) -> Iterator[None]:
        with ExitStack() as contexts:
            for network in self._transformers(inner):
                contexts.enter_context(super()._attention(network, windows_of, latents))
            yield


class WanExperts(nn.Module):
    """The two transformers of Wan 2.2 A14B as one network: the noise level of each clip picks one.

    From a sigma of `boundary_ratio` on it is `transformer` of the pipeline, below `transformer_2`.

    Raises:
        ValueError: if there is no boundary.
    """

    def __init__(
        self,
        high_noise: WanTransformer3DModel,
        low_noise: WanTransformer3DModel,
        boundary_ratio: float | None,
    ) -> None:
        super().__init__()
        if boundary_ratio is None:
            raise ValueError(
                "this Wan pipeline has two transformers but no boundary_ratio, expected a number between 0 and 1; "
                "write it into model_index.json (0.875 for Wan 2.2 T2V A14B)."
            )
        self.high_noise = high_noise
        self.low_noise = low_noise
        self.boundary_ratio = boundary_ratio

    @property
    def config(self) -> Any:
        """The configuration of both."""
        return self.high_noise.config

    @property
    def dtype(self) -> torch.dtype:
        """Precision of both."""
        return self.high_noise.dtype

    def split(
        self, timestep: Float[Tensor, "batch *tokens"]
    ) -> Iterator[tuple[nn.Module, Bool[Tensor, " batch"]]]:
        """Each expert that some clip needs, with the clips that need it."""
        is_high = timestep.reshape(len(timestep), -1)[:, 0] >= self.boundary_ratio * 1000
        for expert, chosen in ((self.high_noise, is_high), (self.low_noise, ~is_high)):
            if chosen.any():
                yield expert, chosen

    def forward(
        self,
        hidden_states: Float[Tensor, "batch channels frames height width"],
        timestep: Float[Tensor, "batch *tokens"],
        encoder_hidden_states: Float[Tensor, "batch text_length text_dim"],
        return_dict: bool = False,
    ) -> tuple[Float[Tensor, "batch channels frames height width"]]:
        """Call the expert of each clip, as the transformers of diffusers are called."""
        assert not return_dict
        output = torch.empty_like(hidden_states)
        for expert, chosen in self.split(timestep):
            inputs = hidden_states[chosen], timestep[chosen], encoder_hidden_states[chosen]
            (part,) = expert(*inputs, return_dict=False)
            output = output.index_put((chosen,), part.to(output.dtype))
        return (output,)


def wan_fps(expand_timesteps: bool) -> float:
    """Frames per second of the clips that a Wan model was trained on: 24 for Wan 2.2 TI2V-5B, else 16."""
    return _TI2V_FPS if expand_timesteps else _FPS
