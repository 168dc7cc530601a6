"""Which attention implementation really runs on a device, found out by running it."""

from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch.nn.functional import scaled_dot_product_attention

# In order of preference, by the names that diffusers gives them.
_CANDIDATES = ("xformers", "native")


@dataclass(frozen=True)
class AttentionProbe:
    """What happened when an attention backend was called.

    Attributes:
        backend: diffusers' name for it, "xformers" or "native".
        works: whether it ran and gave the right numbers.
        detail: one line: how it went, or why it did not run.
    """

    backend: str
    works: bool
    detail: str


def probe_attention_backends(device: torch.device | str, dtype: torch.dtype) -> list[AttentionProbe]:
    """Call every attention backend on small tensors and compare it with torch's own.

    An installed package proves nothing: xformers imports where none of its kernels run.

    Args:
        device: where the transformer will run.
        dtype: in what precision.
    """
    return [_probe(backend, torch.device(device), dtype) for backend in _CANDIDATES]


def choose_attention_backend(device: torch.device | str, dtype: torch.dtype) -> str:
    """The best backend that really runs: "xformers" on CUDA where it works, else "native" (torch's SDPA).

    Args:
        device: where the transformer will run.
        dtype: in what precision.
    """
    if torch.device(device).type == "cuda" and _probe("xformers", torch.device(device), dtype).works:
        return "xformers"
    return "native"


def apply_attention_backend(transformer: ModelMixin, backend: str) -> None:
    """Make a diffusers transformer use a backend.

    Args:
        transformer: a diffusers model.
        backend: "xformers" or "native".

    Raises:
        ValueError: if there is no such backend.
    """
    if backend not in _CANDIDATES:
        raise ValueError(f"attention backend: got {backend!r}, expected one of {', '.join(_CANDIDATES)}.")
    transformer.set_attention_backend(backend)


def _probe(backend: str, device: torch.device, dtype: torch.dtype) -> AttentionProbe:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 16, 2, 32)  # batch, tokens, heads, channels
    try:
        query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
        got = dispatch_attention_fn(query, key, value, backend=backend)
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        expected = scaled_dot_product_attention(query, key, value).transpose(1, 2)
        error = (got - expected).abs().max().item()
    except Exception as failure:  # Whatever a broken installation throws is the answer, not a fault here.
        reason = str(failure).strip().splitlines() or [""]
        return AttentionProbe(backend, False, f"{type(failure).__name__}: {reason[0]}".rstrip(": "))
    if not error <= 0.05:
        return AttentionProbe(backend, False, f"wrong result: differs by {error:.3g} from torch's own")
    return AttentionProbe(backend, True, f"ran on {device} in {str(dtype).removeprefix('torch.')}")
