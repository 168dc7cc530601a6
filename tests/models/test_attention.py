import pytest
import torch
from diffusers import WanPipeline

from swd_video.models.attention import (
    apply_attention_backend,
    choose_attention_backend,
    probe_attention_backends,
)


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
    with pytest.raises(ValueError, match="expected one of xformers, native"):
        apply_attention_backend(tiny_wan_pipe.transformer, "magic")
