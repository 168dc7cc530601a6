"""HunyuanVideo text-to-video models, through the components of diffusers' `HunyuanVideoPipeline`.

A prompt is read twice: by a language model, whose tokens the transformer attends to, and by CLIP, whose one pooled
vector steers all blocks. Both stand in one embedding: row 0 is the pooled vector, the tokens follow.

The published model is distilled to obey a guidance scale that it is told, so that one evaluation does for two.

Source: HunyuanVideo: A Systematic Framework For Large Video Generative Models (arXiv 2412.03603).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import (
    DEFAULT_PROMPT_TEMPLATE,
    retrieve_timesteps,
)
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma, sigma_per_clip
from swd_video.core.grid import LatentSize
from swd_video.models.base import ATTENTION_LAYERS, VideoModel, unwrap
from swd_video.models.positions import rescaled_positions

_FPS = 24.0
_TEXT_LENGTH = 256
_CLIP_LENGTH = 77
_EMBEDDED_GUIDANCE = 6.0


class HunyuanVideoModel(VideoModel):
    """The components of a `HunyuanVideoPipeline`, with its conventions for text and guidance.

    Blocks are counted through: first those that treat text and video apart, then those that treat them together.

    Args:
        pipe: any `HunyuanVideoPipeline` for text to video.
        text_length: tokens of a prompt, without the pooled row; default 256.
        embedded_guidance: the guidance scale that the transformer is told, where it takes one;
            default 6.
        prompt_template: what the language model is asked around the prompt ("template"), and how many of its
            first tokens are dropped again ("crop_start").
        facts: as for every `VideoModel`.
    """

    family = "hunyuan"
    can_rescale_positions = True
    parts = (*VideoModel.parts, "text_encoder_2", "tokenizer_2")
    pipeline_class = HunyuanVideoPipeline
    attention_mask = "boolean"
    block_counts = ("num_layers", "num_single_layers")
    # `true_cfg_scale` of the pipeline, whose `guidance_scale` is the embedded one.
    guidance_scale = 1.0
    settings = ("embedded_guidance",)
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
        text_length: int | None = None,
        embedded_guidance: float | int | None = None,
        prompt_template: Mapping[str, Any] = DEFAULT_PROMPT_TEMPLATE,
        **facts: Any,
    ) -> None:
        self._asked_guidance = embedded_guidance
        super().__init__(pipe, text_length=text_length and 1 + text_length, **facts)
        self.prompt_template = dict(prompt_template)

    @property
    def published_decoder(self) -> str:
        """Takes latents as the transformer sees them."""
        return "taehv"

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt that the language model reads; the pooled row is none of them."""
        return self.spec.text_length - 1

    def count_tokens(self, prompt: str) -> int:
        """How many of `max_tokens` a prompt would take, with what the template has after it."""
        asked = self.prompt_template["template"].format(prompt)
        return super().count_tokens(asked) - int(self.prompt_template["crop_start"])

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
            max_sequence_length=self.max_tokens,
        )
        tokens = tokens * mask.unsqueeze(-1).to(tokens.dtype)
        rows = (
            _widen(pooled.to(tokens.dtype).unsqueeze(1), self.spec.text_dim),
            _widen(tokens, self.spec.text_dim),
        )
        return torch.cat(rows, dim=1)

    def _text_length(self) -> int:
        return 1 + _TEXT_LENGTH

    def _text_dim(self, config: Any) -> int:
        return max(config.text_embed_dim, config.pooled_projection_dim)

    def _fps(self) -> float:
        return _FPS

    def _embedded_guidance(self, config: Any) -> float | None:
        if config.guidance_embeds:
            return float(_EMBEDDED_GUIDANCE if self._asked_guidance is None else self._asked_guidance)
        if self._asked_guidance is not None:
            raise ValueError(
                f"embedded_guidance: got {self._asked_guidance:g}, but this transformer was not distilled for guidance "
                "and is told none; leave it out."
            )
        return None

    def _set_timesteps(self, scheduler: Any, steps: int, grid: LatentSize) -> None:
        retrieve_timesteps(scheduler, steps, self.device, sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        inner = unwrap(network)
        prompt_embeds = prompt_embeds.to(noisy_latents.device, inner.dtype)
        tokens = prompt_embeds[:, 1:, : inner.config.text_embed_dim]
        timestep = sigma_per_clip(sigma, noisy_latents) * 1000
        guidance = self.spec.embedded_guidance
        return {
            "hidden_states": noisy_latents.to(inner.dtype),
            "timestep": timestep,
            "encoder_hidden_states": tokens,
            "encoder_attention_mask": (tokens != 0).any(dim=-1).to(inner.dtype),
            "pooled_projections": prompt_embeds[:, 0, : inner.config.pooled_projection_dim],
            "guidance": None
            if guidance is None
            else torch.full_like(timestep, guidance * 1000, dtype=inner.dtype),
        }

    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        return [*inner.transformer_blocks, *inner.single_transformer_blocks], inner.norm_out

    def _positions(self, inner: Any) -> AbstractContextManager[None]:
        rope = inner.rope
        return rescaled_positions(
            rope, self.full_frames, patch=rope.patch_size_t, channels=rope.rope_dim[0], theta=rope.theta
        )


def _widen(rows: Float[Tensor, "batch rows _"], channels: int) -> Float[Tensor, "batch rows {channels}"]:
    return F.pad(rows, (0, channels - rows.shape[-1]))
