"""What planning counts of every family on shapes alone is what real passes of the tiny models cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import Stage
from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.cost.counting import count_flops, count_graph, count_kept
from swd_video.cost.networks import Decoder, Transformer, count_encoding
from swd_video.models.base import VideoModel
from swd_video.models.loading import VideoSpec, write_video_spec
from swd_video.objectives.networks import Networks
from swd_video.objectives.passes import Pass


@pytest.fixture(scope="module")
def architectures() -> dict[str, Architecture]:
    """Of families that were built before, which only answer questions."""
    return {}


@pytest.fixture
def architecture(
    family: str, model: VideoModel, save_tiny: Callable[[str], Path], architectures: dict[str, Architecture]
) -> Architecture:
    if family in architectures:
        return architectures[family]
    folder = save_tiny(family)
    # HunyuanVideo's text starts with a pooled row, and its length is not the family's in these tests.
    length = model.spec.text_length - (family == "hunyuan")
    write_video_spec(folder, VideoSpec(text_length=length))
    architectures[family] = load_architecture(folder)
    return architectures[family]


def test_costs_of_every_family(model: VideoModel, grid: LatentSize, architecture: Architecture) -> None:
    assert architecture.spec == model.spec
    for name, count in architecture.num_parameters.items():
        assert count == sum(weight.numel() for weight in getattr(model.pipe, name).parameters())

    spec = model.spec
    latents = torch.randn(1, spec.latent_channels, *grid.as_tuple())
    pixels = torch.zeros(1, 3, *spec.compression.pixel_size(grid).as_tuple())
    prompt_embeds = torch.randn(1, spec.text_length, spec.text_dim)
    evaluation = Transformer(architecture).evaluation(grid)
    assert evaluation.forward == count_flops(lambda: model.predict_velocity(latents, 0.5, prompt_embeds))
    assert 0 < evaluation.attention < evaluation.forward
    decoding = Decoder(architecture).flops(Pass("vae_decoder", grid))
    assert decoding.forward == count_flops(lambda: model.decode(latents))
    assert count_encoding(architecture, grid) == count_flops(lambda: model.encode_video(pixels))


def test_training_costs_of_every_family(
    family: str, model: VideoModel, grid: LatentSize, architecture: Architecture
) -> None:
    network: Any = getattr(model.pipe, model.transformer_at(0.3))
    model.transformer = network
    roles, block = Networks.with_copy(model), model.spec.num_blocks - 1
    latents = torch.randn(1, model.spec.latent_channels, *grid.as_tuple())
    prompt_embeds = torch.randn(1, model.spec.text_length, model.spec.text_dim)
    predicted_x0 = latents.clone().requires_grad_()

    def predict() -> torch.Tensor:
        return roles.predict_x0(latents, Stage(0.3, grid), prompt_embeds)

    def tokens() -> torch.Tensor:
        return roles.model.features(predicted_x0, 0.3, prompt_embeds, (block,), transformer=network)[0]

    counted = Transformer(architecture)
    for one, call in (
        (Pass("student", grid, gradient="weights"), predict),
        (Pass("teacher", grid, gradient="input", depth=block + 1), tokens),
    ):
        real, planned = count_graph(call), counted.flops(one)
        assert (planned.forward, planned.backward) == (real.forward, real.backward)
        owner = roles.student if one.network == "student" else network
        assert counted.kept(one, bf16=False).at(1) == pytest.approx(count_kept(call, owner), rel=0.02)


def test_a_lora_of_every_family_changes_every_block(family: str, architecture: Architecture) -> None:
    counter = Transformer(architecture, (2, architecture.model.lora_targets))
    one, *more = (sum_of(student) for student in counter._small)
    assert all(count > one > 0 for count in more)


def test_the_noise_level_picks_one_of_two_transformers(
    tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    model = tiny_family("wan-a14b").adapter.from_pipeline(tiny_pipe("wan-a14b"))
    assert [model.transformer_at(sigma) for sigma in (1.0, 0.875, 0.87)] == [
        "transformer",
        "transformer",
        "transformer_2",
    ]


def sum_of(student: nn.Module) -> int:
    return sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
