"""HunyuanVideo text-to-video models, through the components of diffusers' `HunyuanVideoPipeline`.

A prompt is read twice: by a language model, whose tokens the transformer attends to, and by CLIP, whose one pooled
vector steers all blocks. Both stand in one embedding: row 0 is the pooled vector, the tokens follow.

The published model is distilled to obey a guidance scale that it is told, so that one evaluation does for two.

Source: HunyuanVideo: A Systematic Framework For Large Video Generative Models (arXiv 2412.03603).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma
from swd_video.core.grid import Compression, PixelSize
from swd_video.models.base import (
    ATTENTION_LAYERS,
    ModelSpec,
    VideoModel,
    check_parts,
    freeze,
    require_text_to_video,
    sigma_per_clip,
    unwrap,
)

_FPS = 24.0
_TEXT_LENGTH = 256
_CLIP_LENGTH = 77
_EMBEDDED_GUIDANCE = 6.0


class HunyuanVideoModel(VideoModel):
    """The components of a `HunyuanVideoPipeline`, with its conventions for text and guidance.

    Blocks are counted through: first those that treat text and video apart, then those that treat them together.
    """

    pipeline_class = HunyuanVideoPipeline
    pipeline_names = ("HunyuanVideoPipeline",)
    attention_mask = "boolean"
    block_counts = ("num_layers", "num_single_layers")
    # Not `proj_out` of the single blocks: the layer after the last block has that name, too.
    lora_targets = (
        *ATTENTION_LAYERS,
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
        "proj_mlp",
    )

    def __init__(
        self,
        pipe: HunyuanVideoPipeline,
        *,
        fps: float | int | None = None,
        training_size: PixelSize | None = None,
        text_length: int | None = None,
        embedded_guidance: float | int = _EMBEDDED_GUIDANCE,
        prompt_template: Mapping[str, Any] = DEFAULT_PROMPT_TEMPLATE,
    ) -> None:
        check_parts(pipe, "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        require_text_to_video(pipe, pipe.vae.config.latent_channels)
        config = pipe.transformer.config
        self.pipe = pipe
        self.transformer: nn.Module = pipe.transformer
        self.vae: AutoencoderKLHunyuanVideo = pipe.vae
        self.embedded_guidance = embedded_guidance
        self.prompt_template = dict(prompt_template)
        freeze(pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
        self.spec = ModelSpec(
            family="hunyuan",
            compression=Compression(
                temporal=pipe.vae.temporal_compression_ratio,
                spatial=pipe.vae.spatial_compression_ratio,
                patch=(config.patch_size_t, config.patch_size, config.patch_size),
            ),
            latent_channels=pipe.vae.config.latent_channels,
            hidden_size=config.num_attention_heads * config.attention_head_dim,
            num_blocks=config.num_layers + config.num_single_layers,
            text_length=1 + (text_length or _TEXT_LENGTH),
            text_dim=max(config.text_embed_dim, config.pooled_projection_dim),
            fps=float(fps or _FPS),
            training_size=training_size,
        )

    @classmethod
    def from_pipeline(
        cls,
        pipe: HunyuanVideoPipeline,
        *,
        fps: float | int | None = None,
        training_size: PixelSize | None = None,
        text_length: int | None = None,
        embedded_guidance: float | int = _EMBEDDED_GUIDANCE,
        prompt_template: Mapping[str, Any] = DEFAULT_PROMPT_TEMPLATE,
    ) -> "HunyuanVideoModel":
        """Wrap a loaded pipeline; its modules are shared, not copied.

        Args:
            pipe: any `HunyuanVideoPipeline` for text to video.
            fps: frames per second of the clips it was trained on; default 24.
            training_size: size of the clips it was trained on, where known.
            text_length: tokens of a prompt, without the pooled row; default 256.
            embedded_guidance: the guidance scale that the transformer is told, where it takes one.
            prompt_template: what the language model is asked around the prompt ("template"), and how many of its
                first tokens are dropped again ("crop_start").

        Raises:
            ValueError: if the transformer takes more than noisy latents.
        """
        return cls(
            pipe,
            fps=fps,
            training_size=training_size,
            text_length=text_length,
            embedded_guidance=embedded_guidance,
            prompt_template=prompt_template,
        )

    @property
    def text_tokens(self) -> dict[str, int]:
        """The language model reads the template around the prompt, too; CLIP as much as it can."""
        language = self.spec.text_length - 1 + self.prompt_template["crop_start"]
        return {"text_encoder": language, "text_encoder_2": _CLIP_LENGTH}

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts as `HunyuanVideoPipeline` does: the pooled row, then tokens, zeros where its mask hides."""
        tokens, pooled, mask = self.pipe.encode_prompt(
            prompts,
            prompt_template=self.prompt_template,
            max_sequence_length=self.spec.text_length - 1,
        )
        tokens = tokens * mask.unsqueeze(-1).to(tokens.dtype)
        rows = (
            _widen(pooled.to(tokens.dtype).unsqueeze(1), self.spec.text_dim),
            _widen(tokens, self.spec.text_dim),
        )
        return torch.cat(rows, dim=1)

    def _normalize(self, raw_latents: Tensor) -> Tensor:
        return raw_latents * self.vae.config.scaling_factor

    def _denormalize(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        inner = unwrap(network)
        prompt_embeds = prompt_embeds.to(noisy_latents.device, inner.dtype)
        tokens = prompt_embeds[:, 1:, : inner.config.text_embed_dim]
        timestep = sigma_per_clip(sigma, noisy_latents) * 1000
        return {
            "hidden_states": noisy_latents.to(inner.dtype),
            "timestep": timestep,
            "encoder_hidden_states": tokens,
            "encoder_attention_mask": (tokens != 0).any(dim=-1).to(inner.dtype),
            "pooled_projections": prompt_embeds[:, 0, : inner.config.pooled_projection_dim],
            "guidance": torch.full_like(timestep, self.embedded_guidance * 1000, dtype=inner.dtype),
        }

    def _to_velocity(self, output: Tensor, noisy_latents: Tensor, sigma: Sigma) -> Tensor:
        return output

    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        return [*inner.transformer_blocks, *inner.single_transformer_blocks], inner.norm_out


def _widen(rows: Float[Tensor, "batch rows _"], channels: int) -> Float[Tensor, "batch rows {channels}"]:
    return F.pad(rows, (0, channels - rows.shape[-1]))
