"""Figures that others published of Wan2.1, from the config files that come with the package."""

import pytest

from swd_video.core.grid import Compression, LatentSize, PixelSize
from swd_video.planning.architecture import Architecture, load_architecture
from swd_video.planning.sampling_cost import TransformerCounter

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


@pytest.fixture(scope="module")
def wan() -> Architecture:
    return load_architecture("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


@pytest.fixture(scope="module")
def counter(wan: Architecture) -> TransformerCounter:
    return TransformerCounter(wan)


@pytest.mark.parametrize(("evaluations", "runs", "tflops"), TABLE_1, ids=lambda value: str(value))
def test_pyramidal_wan_table_1(
    evaluations: tuple[int, ...], runs: int, tflops: int, counter: TransformerCounter
) -> None:
    grids = [Compression().latent_size(size) for size in PYRAMID]
    counted = sum(
        number * counter.evaluation(grid).forward
        for number, grid in zip(evaluations, grids, strict=True)
        if number
    )
    assert runs * counted / 1e12 == pytest.approx(tflops, rel=0.01)


def test_seven_tenths_of_a_full_size_evaluation_are_attention(counter: TransformerCounter) -> None:
    cost = counter.evaluation(LatentSize(21, 60, 104))
    assert cost.attention / cost.forward == pytest.approx(0.71, abs=0.005)


# What the weight files of the published repositories hold, in float32: 5.68 GB for the small transformer, 508 MB for
# the VAE, 22.7 GB for the text encoder.
def test_parameter_counts_are_the_published_ones(wan: Architecture) -> None:
    assert wan.num_parameters == {
        "text_encoder": 5_680_910_336,
        "transformer": 1_418_996_800,
        "vae": 126_892_531,
    }
    large = load_architecture("Wan-AI/Wan2.1-T2V-14B-Diffusers")
    assert large.num_parameters["transformer"] == 14_288_491_584
