"""Which attention implementation really runs on a device, found out by running it.

The implementations are those of diffusers' dispatcher; nothing is computed here but small probes.
"""

from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    attention_backend,
    dispatch_attention_fn,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swd_video.models.base import MaskKind

# By the names that diffusers gives them. "auto" chooses between the first two: flash and sage are for whoever asks.
_BACKENDS = ("xformers", "native", "flash", "sage")


@dataclass(frozen=True)
class AttentionProbe:
    """What happened when an attention backend was called.

    Attributes:
        backend: diffusers' name for it: "xformers", "native" (torch's SDPA), "flash" or "sage".
        works: whether it ran and gave the right numbers.
        detail: one line: how it went, or why it did not run.
    """

    backend: str
    works: bool
    detail: str


def probe_attention_backends(
    device: torch.device | str, dtype: torch.dtype, mask: MaskKind = "none"
) -> list[AttentionProbe]:
    """Call every attention backend on small tensors and compare it with torch's own.

    An installed package proves nothing: xformers imports where none of its kernels run.

    The mask is what the model's attention is told about padding; a backend may run and get just that wrong.
    """
    return [_probe(backend, torch.device(device), dtype, mask) for backend in _BACKENDS]


def choose_attention_backend(
    device: torch.device | str, dtype: torch.dtype, mask: MaskKind = "none", autocast: bool = False
) -> str:
    """The best backend that really runs: "xformers" on CUDA where it works, else "native" (torch's SDPA).

    Under autocast to `dtype`, CUDA's norms put out float32: queries and keys are of another precision than values.
    """
    device = torch.device(device)
    return (
        "xformers"
        if device.type == "cuda" and _probe("xformers", device, dtype, mask, autocast).works
        else "native"
    )


def apply_attention_backend(transformer: ModelMixin, backend: str) -> None:
    """Make a diffusers transformer use a backend.

    Raises:
        ValueError: if there is no such backend, it is not installed, or the model does not let one choose.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"attention backend: got {backend!r}, expected one of {', '.join(_BACKENDS)}.")
    if not lets_choose_attention(transformer):
        if backend == "native":
            return
        raise ValueError(
            f"attention backend: got {backend!r}, but diffusers' {type(transformer).__name__} always uses torch's "
            "own attention; use auto or native."
        )
    try:
        # set_attention_backend also changes the default of every other model; the context changes it back.
        with attention_backend("native"):
            transformer.set_attention_backend(backend)
    except RuntimeError as error:
        raise ValueError(f"attention backend {backend!r}: {str(error).splitlines()[0]}") from error


def set_attention(
    transformer: ModelMixin,
    backend: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    mask: MaskKind = "none",
    autocast: bool = False,
) -> str:
    """Give a transformer the attention that was asked for, after it ran there once; returns its name.

    Args:
        transformer: a diffusers one.
        backend: one of `probe_attention_backends`' names, or "auto".
        device: where it will run.
        dtype: in which precision.
        mask: what the model's attention is told about padding.
        autocast: whether it runs in that precision under autocast; see `choose_attention_backend`.

    Raises:
        ValueError: if the backend does not run there, or not with the model's masks.
    """
    if backend == "auto":
        if not lets_choose_attention(transformer):
            return "native"
        backend = choose_attention_backend(device, dtype, mask, autocast)
        if backend == "native":
            return backend
    elif (
        backend in _BACKENDS
        and not (probe := _probe(backend, torch.device(device), dtype, mask, autocast)).works
    ):
        raise ValueError(
            f"attention backend {backend!r} does not run on {device} for this model: {probe.detail}. Use auto."
        )
    apply_attention_backend(transformer, backend)
    return backend


def lets_choose_attention(transformer: ModelMixin) -> bool:
    """Whether a transformer's attention goes through diffusers' dispatcher; CogVideoX's does not."""
    processors = (getattr(module, "processor", None) for module in transformer.modules())
    return any(hasattr(processor, "_attention_backend") for processor in processors)


def _probe(
    backend: str, device: torch.device, dtype: torch.dtype, mask: MaskKind, autocast: bool = False
) -> AttentionProbe:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 16, 2, 64)  # batch, tokens, heads, channels
    try:
        _check_attention_backend_requirements(AttentionBackendName(backend))
        query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
        padding = _padding_mask(mask, query)
        given = (query.float(), key.float()) if autocast else (query, key)
        with torch.autocast(device.type, dtype, enabled=autocast):
            got = dispatch_attention_fn(*given, value, attn_mask=padding, backend=backend)
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        expected = scaled_dot_product_attention(query, key, value, attn_mask=padding).transpose(1, 2)
        error = (got - expected).abs().max().item()
    except Exception as failure:  # Whatever a broken installation throws is the answer, not a fault here.
        reason = str(failure).strip().splitlines() or [""]
        return AttentionProbe(backend, False, f"{type(failure).__name__}: {reason[0]}".rstrip(": "))
    if not error <= 0.05:
        return AttentionProbe(backend, False, f"wrong result: differs by {error:.3g} from torch's own")
    return AttentionProbe(backend, True, f"ran on {device} in {str(dtype).removeprefix('torch.')}")


def _padding_mask(kind: MaskKind, query: Tensor) -> Tensor | None:
    """A mask over the last half of the keys, in the shape in which diffusers' processors hand it over."""
    batch, tokens, heads, _ = query.shape
    if kind == "none":
        return None
    seen = torch.arange(tokens, device=query.device) < tokens // 2
    if kind == "boolean":
        return seen.expand(batch, 1, 1, tokens)
    return torch.where(seen, 0.0, -10000.0).to(query.dtype).expand(batch, heads, 1, tokens).contiguous()
