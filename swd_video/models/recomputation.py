"""Gradient checkpointing: memory for work.

The backward pass needs what every layer put out. Kept are only the tokens between blocks; each block is computed again
when its turn comes.

Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from swd_video.models.lora import active_lora, lora_in_use


def recompute_blocks(transformer: nn.Module) -> None:
    """Let a diffusers transformer compute its blocks again in the backward pass, wherever it records gradients.

    One network may serve as student, as critic and, with all additions off, as teacher. The backward pass comes when
    others may be on than in the forward pass, so each block is computed again with those it had at first.

    Raises:
        ValueError: if the model does not let one.
    """
    if not getattr(transformer, "_supports_gradient_checkpointing", False):
        raise ValueError(
            f"train.gradient_checkpointing: {type(transformer).__name__} has no blocks to compute again; leave it out."
        )
    enable: Any = transformer.enable_gradient_checkpointing
    enable(_run)


def _run(block: nn.Module, *inputs: Any) -> Any:
    # Nothing in a block is random: both networks are in evaluation mode.
    contexts = partial(_contexts, block)
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), active_lora(block, lora_in_use(block))
