"""Wan 2.1 text-to-video models, through the components of diffusers' `WanPipeline`.

Source: Wan: Open and Advanced Large-Scale Video Generative Models (arXiv 2503.20314).
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from swd_video.core.flow import Sigma
from swd_video.core.grid import Compression, PixelSize
from swd_video.models.base import ModelSpec, VideoModel

# What Wan 2.1 was trained with; a folder that says otherwise has a `video_spec.json`.
WAN_FPS = 16.0
WAN_MAX_TEXT_LENGTH = 512


class WanModel(VideoModel):
    """The components of a `WanPipeline`, with its conventions for text, latents and timesteps.

    The text encoder and the VAE are frozen and put in evaluation mode; the transformer is left as it is.
    """

    def __init__(
        self,
        pipe: WanPipeline,
        *,
        fps: float | int = WAN_FPS,
        training_size: PixelSize | None = None,
        text_length: int | None = None,
    ) -> None:
        check_one_transformer(pipe)
        self.pipe = pipe
        self.transformer: nn.Module = pipe.transformer
        self.vae: AutoencoderKLWan = pipe.vae
        for frozen in (pipe.vae, pipe.text_encoder):
            frozen.requires_grad_(False).eval()
        config = pipe.transformer.config
        self.spec = ModelSpec(
            family="wan",
            compression=wan_compression(pipe.vae, pipe.transformer),
            latent_channels=config.in_channels,
            hidden_size=config.num_attention_heads * config.attention_head_dim,
            num_blocks=config.num_layers,
            text_length=text_length or tokenizer_length(pipe.tokenizer),
            text_dim=config.text_dim,
            fps=float(fps),
            training_size=training_size,
        )

    @classmethod
    def from_pipeline(
        cls,
        pipe: WanPipeline,
        *,
        fps: float | int = WAN_FPS,
        training_size: PixelSize | None = None,
        text_length: int | None = None,
    ) -> "WanModel":
        """Wrap a loaded pipeline; its modules are shared, not copied.

        Args:
            pipe: any `WanPipeline` with one transformer.
            fps: frames per second of the clips it was trained on.
            training_size: size of the clips it was trained on, where known.
            text_length: tokens of a prompt; default what the tokenizer says, at most 512.

        Raises:
            ValueError: if the pipeline has two transformers (Wan 2.2 A14B).
        """
        return cls(pipe, fps=fps, training_size=training_size, text_length=text_length)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts as `WanPipeline` does: cleaned, cut at the last token, zeros after it."""
        prompt_embeds, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.spec.text_length
        )
        return prompt_embeds

    @torch.no_grad()
    def encode_video(
        self, pixels: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames latent_height latent_width"]:
        """Pixels in [-1, 1] to float32 latents: the mode of the VAE's posterior, normalised.

        Raises:
            ValueError: if the size is not legal for the model.
        """
        self.spec.compression.latent_size(PixelSize(*pixels.shape[2:]))
        raw_latents = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return normalize_latents(raw_latents.float(), self.vae)

    def decode(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Latents to pixels in [-1, 1], in the VAE's dtype; gradients reach `latents`."""
        raw_latents = denormalize_latents(latents.to(self.vae.device, self.vae.dtype), self.vae)
        return self.vae.decode(raw_latents, return_dict=False)[0]

    def predict_velocity(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        transformer: nn.Module | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Predict `noise - x0`, without guidance, in the dtype of `noisy_latents`."""
        network = self.transformer if transformer is None else transformer
        inputs = self._transformer_inputs(network, noisy_latents, sigma, prompt_embeds)
        return network(**inputs, return_dict=False)[0].to(noisy_latents.dtype)

    def features(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        blocks: Sequence[int],
        transformer: nn.Module | None = None,
    ) -> list[Float[Tensor, "batch tokens hidden_size"]]:
        """Tokens after each of the asked transformer blocks, in the order asked.

        Nothing after the last asked block is computed, and gradients reach `noisy_latents`.

        Raises:
            ValueError: if a block does not exist, or none is asked for.
        """
        network = self.transformer if transformer is None else transformer
        inner = _unwrap(network)
        count = len(inner.blocks)
        if not blocks or min(blocks) < 0 or max(blocks) >= count:
            raise ValueError(
                f"features: got blocks {list(blocks)}, expected at least one index from 0 to {count - 1}; "
                f"this transformer has {count} blocks."
            )
        inputs = self._transformer_inputs(network, noisy_latents, sigma, prompt_embeds)
        last = max(blocks)
        # Stopping at the next module's door, not inside the last block, lets gradient checkpointing finish
        # with that block properly.
        after_last = inner.blocks[last + 1] if last + 1 < count else inner.norm_out
        captured: dict[int, Tensor] = {}
        with ExitStack() as hooks, suppress(_FeaturesComplete):
            for index in set(blocks):
                hooks.callback(inner.blocks[index].register_forward_hook(_capture(captured, index)).remove)
            hooks.callback(after_last.register_forward_pre_hook(_stop).remove)
            network(**inputs, return_dict=False)
        return [captured[index] for index in blocks]

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Tensor]:
        inner = _unwrap(network)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=noisy_latents.device).reshape(-1)
        timestep = (levels * 1000).expand(noisy_latents.shape[0])
        if self.pipe.config.expand_timesteps:
            timestep = timestep_per_token(timestep, noisy_latents, inner.config.patch_size)
        return {
            "hidden_states": noisy_latents.to(inner.dtype),
            "timestep": timestep,
            "encoder_hidden_states": prompt_embeds.to(noisy_latents.device, inner.dtype),
        }


def wan_compression(vae: AutoencoderKLWan, transformer: WanTransformer3DModel) -> Compression:
    """How a Wan VAE and transformer divide a clip, read from their configs."""
    return Compression(
        temporal=vae.config.scale_factor_temporal,
        spatial=vae.config.scale_factor_spatial,
        patch=tuple(transformer.config.patch_size),
    )


def normalize_latents(
    raw_latents: Float[Tensor, "batch channels frames height width"], vae: AutoencoderKLWan
) -> Float[Tensor, "batch channels frames height width"]:
    """What the VAE's encoder gives to what the transformer sees: channel means 0, deviations 1."""
    mean, inverse_std = _statistics(raw_latents, vae)
    return (raw_latents - mean) * inverse_std


def denormalize_latents(
    latents: Float[Tensor, "batch channels frames height width"], vae: AutoencoderKLWan
) -> Float[Tensor, "batch channels frames height width"]:
    """The inverse of `normalize_latents`, in the very operations of `WanPipeline`, so that pixels agree."""
    mean, inverse_std = _statistics(latents, vae)
    return latents / inverse_std + mean


def timestep_per_token(
    timestep: Float[Tensor, " batch"],
    noisy_latents: Float[Tensor, "batch channels frames height width"],
    patch: Sequence[int],
) -> Float[Tensor, "batch tokens"]:
    """The same timestep for every token, the form that Wan 2.2 TI2V (`expand_timesteps`) takes."""
    _, _, frames, height, width = noisy_latents.shape
    tokens = (frames // patch[0]) * (height // patch[1]) * (width // patch[2])
    return timestep.unsqueeze(1).expand(-1, tokens)


def tokenizer_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a prompt: the tokenizer's own limit, and never more than Wan's 512."""
    return min(WAN_MAX_TEXT_LENGTH, int(tokenizer.model_max_length))


def check_one_transformer(pipe: WanPipeline) -> None:
    """Refuse pipelines that switch between two transformers.

    Raises:
        ValueError: if `transformer_2` is present (Wan 2.2 A14B).
    """
    if pipe.transformer is None or pipe.transformer_2 is not None:
        raise ValueError(
            "this Wan pipeline has two transformers (Wan 2.2 A14B), expected one; use Wan 2.1 or "
            "Wan 2.2 TI2V-5B."
        )


class _FeaturesComplete(Exception):
    """Raised from a hook, once the last asked block has run."""


def _stop(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _FeaturesComplete


def _capture(captured: dict[int, Tensor], index: int) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        captured[index] = output

    return keep


def _unwrap(network: nn.Module) -> Any:
    # DistributedDataParallel hides attributes; peft and torch.compile pass them through.
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def _statistics(like: Tensor, vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(like.device, like.dtype)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(like.device, like.dtype)
    return mean, inverse_std
