"""Which xformers operator the attention of each family's published shapes would take on a GPU.

No GPU is needed: the transformers, one block of each kind, run on the meta device, and the calls that diffusers makes
of xformers are recorded. With fake CUDA tensors of the same shapes, types and strides, xformers' own rules say which
operator takes them. What an installation without CUDA adds to those rules ("was not built") is left out.
What is shown is which operator is chosen, not that it runs or how fast.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

fmha = pytest.importorskip("xformers.ops.fmha")
from xformers.ops.fmha import dispatch  # noqa: E402
from xformers.ops.fmha.common import Inputs  # noqa: E402

from swd_video.core.local_attention import LocalAttention  # noqa: E402
from swd_video.models.attention import apply_attention_backend  # noqa: E402

A100, H100, RTX_5090 = (8, 0), (9, 0), (12, 0)
_ABOUT_THIS_INSTALLATION = ("wasn't build with CUDA", "operator wasn't built")

# Published width and clip, one block; latent grid.
SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "wan": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 1}, (21, 60, 104)),
    "wan-14b": ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 1}, (21, 90, 160)),
    "wan-ti2v": (
        {
            "num_attention_heads": 24,
            "ffn_dim": 14336,
            "num_layers": 1,
            "in_channels": 48,
            "out_channels": 48,
        },
        (31, 44, 80),
    ),
    "ltx": ({"num_layers": 1}, (21, 16, 22)),
    "hunyuan": ({"num_layers": 1, "num_single_layers": 1}, (33, 90, 160)),
}


def _calls(
    family: str,
    build: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    windows: LocalAttention | None = None,
) -> list[Inputs]:
    """What diffusers would hand to xformers in one evaluation of the published model."""
    calls: list[Inputs] = []

    def record(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, p: float, scale: float | None
    ) -> Tensor:
        calls.append(Inputs(query, key, value, bias, p, scale))
        return torch.empty_like(query)

    monkeypatch.setattr(
        attention_dispatch, "xops", SimpleNamespace(memory_efficient_attention=record), raising=False
    )
    monkeypatch.setattr(attention_dispatch, "_CAN_USE_XFORMERS_ATTN", True)
    model, (config, grid) = build(family.removesuffix("-14b")), SHAPES[family]
    with torch.device("meta"):
        network = type(model.transformer)(**config).to(torch.bfloat16)
        apply_attention_backend(network, "xformers")
        latents = torch.empty(1, network.config.in_channels, *grid, dtype=torch.bfloat16)
        rows = {"ltx": 128, "hunyuan": 257}.get(family, 512)
        prompt = torch.empty(1, rows, 4096, dtype=torch.bfloat16)
        inputs = model._transformer_inputs(network, latents, 0.5, prompt)
        with torch.no_grad(), model._attention(network, windows, latents):
            network(**inputs, return_dict=False)
    return calls


def _operator(call: Inputs, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> str:
    def on_cuda(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    with FakeTensorMode():
        call = Inputs(on_cuda(call.query), on_cuda(call.key), on_cuda(call.value), on_cuda(call.attn_bias))
    for operator in dispatch._dispatch_fw_priority_list(call, needs_gradient=False):
        reasons = operator.not_supported_reasons(call)
        if torch.Tensor in operator.SUPPORTED_ATTN_BIAS_TYPES:
            reasons = [reason for reason in reasons if "FakeTensor" not in reason]
        if not [r for r in reasons if not any(ours in r for ours in _ABOUT_THIS_INSTALLATION)]:
            return operator.__module__.rpartition(".")[2]
    return "none"


@pytest.mark.parametrize(
    ("family", "capability", "operators"),
    [
        ("wan", A100, ["flash3", "flash3"]),
        ("wan", H100, ["flash3", "flash3"]),
        ("wan", RTX_5090, ["flash", "flash"]),
        ("wan-14b", A100, ["flash3", "flash3"]),
        ("wan-14b", H100, ["flash3", "flash3"]),
        ("wan-14b", RTX_5090, ["flash", "flash"]),
        ("wan-ti2v", A100, ["flash3", "flash3"]),
        ("wan-ti2v", H100, ["flash3", "flash3"]),
        ("wan-ti2v", RTX_5090, ["flash", "flash"]),
        ("ltx", A100, ["flash3", "cutlass"]),
        ("ltx", H100, ["flash3", "cutlass"]),
        ("ltx", RTX_5090, ["flash", "none"]),
        ("hunyuan", A100, ["cutlass", "cutlass"]),
        ("hunyuan", H100, ["cutlass", "cutlass"]),
        ("hunyuan", RTX_5090, ["none", "none"]),
    ],
)
def test_operators(
    family: str,
    capability: tuple[int, int],
    operators: list[str],
    tiny_pipe: Callable[[str], Any],
    tiny_family: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(name: str) -> Any:
        entry = tiny_family(name)
        return entry.adapter.from_pipeline(tiny_pipe(name), **entry.extras)

    calls = _calls(family, build, monkeypatch)
    assert [_operator(call, capability, monkeypatch) for call in calls] == operators
    masked = [call.attn_bias is not None for call in calls]
    assert masked == {"ltx": [False, True], "hunyuan": [True, True]}.get(family, [False, False])


def test_windows_are_a_batch_for_the_operator_of_whole_clips(
    tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str) -> Any:
        return tiny_family(name).adapter.from_pipeline(tiny_pipe(name))

    calls = _calls("wan", build, monkeypatch, LocalAttention(11, 30, 26))
    # 21 x 30 x 52 tokens: windows of 11 x 15 x 13, and those at the end of time, of 10.
    assert [tuple(call.query.shape[:2]) for call in calls] == [(8, 2145), (8, 1950), (1, 32760)]
    assert [tuple(call.key.shape[:2]) for call in calls] == [(8, 2145), (8, 1950), (1, 512)]
    assert [_operator(call, A100, monkeypatch) for call in calls] == ["flash3"] * 3
