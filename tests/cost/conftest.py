"""The tiny pipeline twice: with real weights, and as an architecture that has none."""

from pathlib import Path

import pytest
from diffusers import WanPipeline

from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.models.loading import load_teacher
from swd_video.models.wan import WanModel


@pytest.fixture
def real_model(tiny_wan_pipe: WanPipeline) -> WanModel:
    return WanModel.from_pipeline(tiny_wan_pipe)


@pytest.fixture(scope="module")
def tiny_architecture(tiny_wan_folder: Path) -> Architecture:
    return load_architecture(tiny_wan_folder)


@pytest.fixture(scope="module")
def pocket_architecture() -> Architecture:
    return load_architecture("pocket-wan")


@pytest.fixture(scope="module")
def pocket_model() -> WanModel:
    model = load_teacher("pocket-wan")
    assert isinstance(model, WanModel)
    return model
