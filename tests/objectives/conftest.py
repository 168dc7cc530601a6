"""A teacher and its student, and clips of both."""

from collections.abc import Callable

import pytest
import torch
from diffusers import WanPipeline

from swd_video.models.wan import WanModel
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair


@pytest.fixture
def make_networks(tiny_wan_pipe: WanPipeline) -> Callable[[str], Networks]:
    """Of kind "full" or "lora"; one kind for a test."""

    def make(kind: str) -> Networks:
        model = WanModel.from_pipeline(tiny_wan_pipe)
        if kind == "full":
            return Networks.with_copy(model)
        return Networks.with_lora(model, 4, ("to_q", "ffn.net.2"))

    return make


@pytest.fixture(params=["full", "lora"])
def networks(request: pytest.FixtureRequest, make_networks: Callable[[str], Networks]) -> Networks:
    """Both kinds, one after the other."""
    return make_networks(request.param)


@pytest.fixture
def make_clips() -> Callable[..., ClipPair]:
    """Two random clips, the same at every call; gradients reach the prediction."""

    def make(frames: int = 3, size: int = 4) -> ClipPair:
        generator = torch.Generator().manual_seed(0)
        predicted, target = torch.randn(2, 2, 4, frames, size, size, generator=generator)
        return ClipPair(predicted.requires_grad_(), target, torch.randn(2, 48, 16, generator=generator))

    return make
