"""Figures that others published, and whole networks, from the config files that come with the package."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from swd_video.config import load_config_as
from swd_video.core.flow import convert_sigma
from swd_video.core.grid import Compression, LatentSize, PixelSize
from swd_video.cost.architecture import Architecture, load_architecture, shipped_architectures
from swd_video.cost.counting import KernelAttention, count_graph
from swd_video.cost.networks import Transformer
from swd_video.data.sections import SynthesizeConfig
from swd_video.training.config import load_config

# PyramidalWan's three grids, from the lowest to the highest, and its Table 1 (arXiv 2601.04792): evaluations on each,
# how often each evaluation runs the network (twice with guidance), and TFLOPs a clip.
PYRAMID = [PixelSize(21, 112, 208), PixelSize(41, 224, 416), PixelSize(81, 448, 832)]
TABLE_1 = [
    ((0, 0, 50), 2, 2 * 12592),
    ((20, 20, 10), 2, 2 * 2821),
    ((0, 0, 4), 1, 1007),
    ((0, 0, 2), 1, 504),
    ((2, 2, 2), 1, 534),
    ((2, 2, 1), 1, 282),
]


CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(CONFIGS.rglob("*4stage.yaml"))


known_architecture = cache(load_architecture)
"""Nothing here changes one; a text encoder of billions of weights takes a second to describe."""


@pytest.fixture(scope="module")
def wan() -> Architecture:
    return known_architecture("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


@pytest.fixture(scope="module")
def counter(wan: Architecture) -> Transformer:
    return Transformer(wan)


@pytest.mark.parametrize(("evaluations", "runs", "tflops"), TABLE_1, ids=lambda value: str(value))
def test_pyramidal_wan_table_1(
    evaluations: tuple[int, ...], runs: int, tflops: int, counter: Transformer
) -> None:
    grids = [Compression().latent_size(size) for size in PYRAMID]
    counted = sum(
        number * counter.evaluation(grid).forward
        for number, grid in zip(evaluations, grids, strict=True)
        if number
    )
    assert runs * counted / 1e12 == pytest.approx(tflops, rel=0.01)


def test_seven_tenths_of_a_full_size_evaluation_are_attention(counter: Transformer) -> None:
    cost = counter.evaluation(LatentSize(21, 60, 104))
    assert cost.attention / cost.forward == pytest.approx(0.71, abs=0.005)


def test_our_schedule_is_cheaper_than_swds(counter: Transformer) -> None:
    schedule = load_config(CONFIGS / "wan2.1_1.3b" / "ours_4stage.yaml").scale_schedule()
    assert len(schedule) == 4
    assert str(schedule.target) == "21x60x104"
    assert sum(counter.evaluation(grid).forward for grid in schedule.grids) <= 330e12


@pytest.mark.parametrize(
    ("name", "everywhere"), [("wan2.1_1.3b/ours_4stage", 200.9), ("wan2.1_14b/4stage", 4714)]
)
def test_windows_leave_a_seventh_of_the_last_stage_s_attention(name: str, everywhere: float) -> None:
    configs = [load_config(CONFIGS / f"{name}{ending}.yaml") for ending in ("", "_local")]
    before, local = (config.scale_schedule() for config in configs)
    assert [replace(stage, attention=None) for stage in local] == list(before)
    assert [stage.attention is None for stage in local] == [True, True, True, False]
    cost = Transformer(known_architecture(configs[1].model)).evaluation(local.target, local[-1].attention)
    assert cost.attention / 1e12 <= 0.15 * everywhere


# Of Wan, what the weight files of the published repositories hold; of LTX-Video and CogVideoX-5b, counts found stated
# digit by digit. Of HunyuanVideo and CogVideoX-2b only the order of magnitude was found: 13 and 2 billion.
TRANSFORMERS = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": 1_418_996_800,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": 14_288_491_584,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": 14_288_491_584,
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": 4_999_787_712,
    "Lightricks/LTX-Video": 1_923_385_472,
    "hunyuanvideo-community/HunyuanVideo": 12_821_012_544,
    "zai-org/CogVideoX-2b": 1_693_783_872,
    "zai-org/CogVideoX-5b": 5_570_283_072,
}


def test_every_shipped_architecture_is_in_the_table() -> None:
    assert sorted(TRANSFORMERS) == shipped_architectures()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_whole_network_costs_what_small_ones_say(name: str) -> None:
    architecture = known_architecture(name)
    counts = [architecture.num_parameters[part] for part in architecture.transformers]
    assert counts == [TRANSFORMERS[name]] * (2 if "A14B" in name else 1)

    spec, patch = architecture.spec, architecture.spec.compression.patch
    grid = LatentSize(3 * patch[0], 4 * patch[1], 5 * patch[2])
    latents = torch.empty(1, spec.latent_channels, *grid.as_tuple(), device="meta")
    prompt_embeds = torch.empty(1, spec.text_length, spec.text_dim, device="meta")
    network = architecture.transformer(*architecture.block_counts)
    with KernelAttention(), torch.no_grad():
        whole = count_graph(
            lambda: architecture.model.predict_velocity(latents, 0.5, prompt_embeds, transformer=network)
        )
    assert Transformer(architecture).evaluation(grid) == whole


def test_parameter_counts_of_the_other_parts(wan: Architecture) -> None:
    assert wan.num_parameters == {
        "text_encoder": 5_680_910_336,
        "transformer": 1_418_996_800,
        "vae": 126_892_531,
    }


# Where a model's own scheduler does not say how it is sampled at this size: the preset has the source.
ADVISED = {"Wan-AI/Wan2.1-T2V-14B-Diffusers": 5.0, "Wan-AI/Wan2.2-T2V-A14B-Diffusers": 12.0}


def test_shifts_are_read_off_published_schedulers_or_fitted_to_their_tables() -> None:
    def shift_of(name: str, grid: str) -> float | None:
        return known_architecture(name).model.noise_shift(LatentSize.parse(grid))

    assert shift_of("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "21x60x104") == 3
    assert shift_of("hunyuanvideo-community/HunyuanVideo", "33x90x160") == 7
    # Not the 25.3 that its scheduler shifts by before it stretches the levels to an end at 0.1.
    assert shift_of("Lightricks/LTX-Video", "21x16x22") == pytest.approx(15.5, abs=0.05)
    assert shift_of("Lightricks/LTX-Video", "16x8x8") == pytest.approx(2.9, abs=0.05)
    assert shift_of("zai-org/CogVideoX-2b", "13x60x90") == pytest.approx(3.8, abs=0.05)
    assert shift_of("zai-org/CogVideoX-5b", "13x60x90") == pytest.approx(2.05, abs=0.05)


def test_wan_makes_clips_as_its_makers_advise() -> None:
    config = load_config_as(SynthesizeConfig, CONFIGS / "wan2.1_1.3b" / "synthesize.yaml")
    unwanted = config.negative_prompt.split("\uff0c")
    assert len(unwanted) == 28 and unwanted[0] == "色调艳丽" and unwanted[-1] == "倒着走"
    assert config.guidance_scale == 5 and config.steps == 50
    assert config.shift is None  # the scheduler's own, 3


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_presets_have_swds_noise_levels_converted_to_the_models_own_shift(path: Path) -> None:
    config = load_config(path)
    architecture = known_architecture(config.model)
    shift = ADVISED.get(config.model) or architecture.model.noise_shift(config.scale_schedule().target)
    assert shift is not None
    swd = load_config(CONFIGS / "wan2.1_1.3b" / "swd_4stage.yaml")
    converted = [round(convert_sigma(stage.sigma, 3.0, shift), 3) for stage in swd.schedule]
    assert [stage.sigma for stage in config.schedule] == converted
    assert config.loss.mmd[0].sigma_max == round(convert_sigma(swd.loss.mmd[0].sigma_max, 3.0, shift), 3)
    assert re.search(rf"\b{shift:.3g}|{shift:.2f}\b", path.read_text().split("model:")[0])


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_presets_have_legal_grids_that_end_on_the_models_own_size(path: Path) -> None:
    config = load_config(path)
    spec, schedule = known_architecture(config.model).spec, config.scale_schedule()
    tokens = schedule.tokens(spec.compression)
    assert len(tokens) == 4
    assert tokens == sorted(tokens)
    assert spec.compression.pixel_size(schedule.target) == spec.training_size
