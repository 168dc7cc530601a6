"""Gradient checkpointing: memory for work.

The backward pass needs what every layer put out. Kept are only the tokens between blocks; each block is computed again
when its turn comes. Decoding keeps far more than a transformer does: clips are decoded one at a time, and each again in
the backward pass, so that the graph of one window is all that is ever there.

Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
"""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from swd_video.models.local_attention import attending, processors_in
from swd_video.models.lora import active_lora, lora_in_use


def recompute_blocks(transformer: nn.Module) -> None:
    """Let a diffusers transformer compute its blocks again in the backward pass, wherever it records gradients.

    One network may serve as student, as critic and, with all additions off, as teacher. The backward pass comes when
    others may be on than in the forward pass, so each block is computed again with those it had at first, and in the
    same windows of attention.

    Raises:
        ValueError: if the model does not let one.
    """
    if not getattr(transformer, "_supports_gradient_checkpointing", False):
        raise ValueError(
            f"train.gradient_checkpointing: {type(transformer).__name__} has no blocks to compute again; leave it out."
        )
    enable: Any = transformer.enable_gradient_checkpointing
    enable(_run)


def decode_clips(
    decode: Callable[[Tensor], Tensor],
    latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"],
) -> Float[Tensor, "batch 3 frames height width"]:
    """Latents to float32 pixels in [-1, 1] or a little beyond, clip by clip; gradients reach `latents`.

    `decode` is a model's: by its VAE, or by the decoder in its place.

    A window that does not begin with its clip is decoded as if it did: its first latent frame becomes one picture,
    which is softer than it would be in the clip. Autocast is off: small differences of pixels would drown in bfloat16.
    """

    def run(clip: Tensor) -> list[Tensor]:
        with torch.autocast(clip.device.type, enabled=False):
            return [decode(clip.float()).float()]

    return recomputed_by_clip(run, latents)[0]


def recomputed_by_clip(
    run: Callable[[Tensor], list[Tensor]], clips: Float[Tensor, "batch ..."]
) -> list[Tensor]:
    """What `run` makes of each clip alone, joined; computed again, clip by clip, in the backward pass.

    Nothing in what `run` does is random.
    """
    # Without the early stop, networks that keep tensors in themselves (causal VAEs) come to their end and drop them.
    with set_checkpoint_early_stop(False):
        parts = [
            checkpoint(run, clip, use_reentrant=False, preserve_rng_state=False) for clip in clips.split(1)
        ]
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def _run(block: nn.Module, *inputs: Any) -> Any:
    as_now = _AsNow(block)
    # Nothing in a block is random: both networks are in evaluation mode.
    return checkpoint(
        block,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), as_now),
    )


class _AsNow:
    """A context, for as many backward passes as there are, in which a block has the additions and windows of now."""

    def __init__(self, block: nn.Module) -> None:
        self._block, self._additions = block, lora_in_use(block)
        self._processors = processors_in(block.modules())

    def __enter__(self) -> None:
        self._entered = ExitStack()
        self._entered.enter_context(active_lora(self._block, self._additions))
        self._entered.enter_context(attending(self._processors))

    def __exit__(self, *error: Any) -> None:
        self._entered.close()
