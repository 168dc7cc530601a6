import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from diffusers.models import attention_dispatch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swd_video.models.attention import (
    apply_attention_backend,
    choose_attention_backend,
    lets_choose_attention,
    probe_attention_backends,
    set_attention,
)
from swd_video.models.base import MaskKind


def test_on_a_cpu_the_native_backend_is_chosen_because_it_ran() -> None:
    probes = {probe.backend: probe for probe in probe_attention_backends("cpu", torch.float32)}
    assert probes["native"].works and probes["native"].detail == "ran on cpu in float32"
    assert choose_attention_backend("cpu", torch.float32) == "native"


def test_a_backend_that_does_not_run_says_why() -> None:
    # xformers has no CPU kernels that fit here, installed or not: a probe that trusted the import would pass.
    probe = next(
        probe for probe in probe_attention_backends("cpu", torch.float32) if probe.backend == "xformers"
    )
    assert not probe.works
    assert probe.detail and "\n" not in probe.detail


def test_what_autocast_hands_over_is_tried(tiny_wan_pipe: WanPipeline) -> None:
    """Its norms put out float32 on CUDA, so queries and keys are of another precision than values."""
    where = {"device": "cpu", "dtype": torch.bfloat16, "autocast": True}
    assert set_attention(tiny_wan_pipe.transformer, "native", **where) == "native"
    with pytest.raises(ValueError, match=r"'xformers' does not run on cpu for this model: .* same dtype"):
        set_attention(tiny_wan_pipe.transformer, "xformers", **where)


def test_on_cuda_xformers_is_chosen_only_if_it_ran_there() -> None:
    probes = {probe.backend: probe for probe in probe_attention_backends("cuda", torch.float16)}
    expected = "xformers" if probes["xformers"].works else "native"
    assert choose_attention_backend("cuda", torch.float16) == expected
    assert torch.cuda.is_available() or expected == "native"


def test_the_chosen_backend_is_set_on_every_attention(tiny_wan_pipe: WanPipeline) -> None:
    transformer = tiny_wan_pipe.transformer
    latents, embeds = torch.ones(1, 4, 2, 4, 4), torch.ones(1, 48, 16)
    with torch.no_grad():
        before = transformer(latents, torch.tensor([500.0]), embeds, return_dict=False)[0]
        apply_attention_backend(transformer, "native")
        after = transformer(latents, torch.tensor([500.0]), embeds, return_dict=False)[0]
    assert all(block.attn1.processor._attention_backend == "native" for block in transformer.blocks)
    torch.testing.assert_close(after, before)


def test_an_unknown_backend_is_refused(tiny_wan_pipe: WanPipeline) -> None:
    with pytest.raises(ValueError, match="expected one of xformers, native, flash, sage"):
        apply_attention_backend(tiny_wan_pipe.transformer, "magic")


@pytest.mark.parametrize("mask", ["none", "additive", "boolean"])
def test_the_native_backend_takes_every_family_s_mask(mask: MaskKind) -> None:
    probe = next(p for p in probe_attention_backends("cpu", torch.float32, mask) if p.backend == "native")
    assert probe.works


def test_flash_and_sage_are_judged_by_a_call_too() -> None:
    probes = {probe.backend: probe for probe in probe_attention_backends("cpu", torch.bfloat16)}
    assert not probes["flash"].works and not probes["sage"].works
    for name in ("flash", "sage"):
        assert probes[name].detail and "NoneType" not in probes[name].detail


def test_a_backend_that_reads_the_mask_as_numbers_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What diffusers 0.42 does with boolean masks on the way to xformers: hidden tokens get a bias of 0, others 1."""

    def adds_the_mask(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *_: object) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2)

    monkeypatch.setattr(attention_dispatch, "_CAN_USE_XFORMERS_ATTN", True)
    monkeypatch.setattr(
        attention_dispatch, "xops", SimpleNamespace(memory_efficient_attention=adds_the_mask), raising=False
    )
    found = {
        mask: next(p for p in probe_attention_backends("cpu", torch.float32, mask) if p.backend == "xformers")
        for mask in ("none", "additive", "boolean")
    }
    assert found["none"].works and found["additive"].works
    assert not found["boolean"].works and "wrong result" in found["boolean"].detail


def test_auto_leaves_a_transformer_that_lets_nobody_choose(tiny_pipe: Callable[[str], Any]) -> None:
    transformer = tiny_pipe("cogvideox").transformer
    assert not lets_choose_attention(transformer)
    assert set_attention(transformer, "auto", device="cpu", dtype=torch.float32) == "native"
    assert set_attention(transformer, "native", device="cpu", dtype=torch.float32) == "native"
    with pytest.raises(ValueError, match="CogVideoXTransformer3DModel always uses torch's own attention"):
        apply_attention_backend(transformer, "xformers")


@pytest.mark.parametrize("family", ["wan", "ltx", "hunyuan"])
def test_other_transformers_let_one_choose(family: str, tiny_pipe: Callable[[str], Any]) -> None:
    transformer = tiny_pipe(family).transformer
    assert lets_choose_attention(transformer)
    assert set_attention(transformer, "native", device="cpu", dtype=torch.float32) == "native"
    with pytest.raises(ValueError, match=r"'sage' does not run on cpu for this model: .*\. Use auto"):
        set_attention(transformer, "sage", device="cpu", dtype=torch.float32)


def test_one_model_s_choice_is_not_the_others(
    tiny_pipe: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_dispatch, "_CAN_USE_XFORMERS_ATTN", True)
    first, second = tiny_pipe("wan").transformer, copy.deepcopy(tiny_pipe("wan").transformer)
    apply_attention_backend(first, "xformers")
    assert all(block.attn1.processor._attention_backend == "xformers" for block in first.blocks)
    inputs = torch.ones(1, 4, 2, 4, 4), torch.tensor([500.0]), torch.ones(1, 48, 16)
    with torch.no_grad():  # xformers would fail here
        assert second(*inputs, return_dict=False)[0].shape == (1, 4, 2, 4, 4)
