"""What objectives say that they run."""

import pytest
from diffusers import WanPipeline

from swd_video.core.grid import LatentSize
from swd_video.models.spec import ModelSpec
from swd_video.models.wan import WanModel
from swd_video.objectives.passes import Pass
from swd_video.objectives.sections import LossConfig

GRID = LatentSize(5, 40, 40)


@pytest.fixture
def spec(tiny_wan_pipe: WanPipeline) -> ModelSpec:
    return WanModel.from_pipeline(tiny_wan_pipe).spec


def test_terms_that_see_the_same_clips_share_a_pair_of_passes(spec: ModelSpec) -> None:
    loss = LossConfig.model_validate(
        {"mmd": {"extra_terms": [{"block": 0}, {"kernel": "rbf", "block": 2}, {"sigma_max": 0.3}]}}
    )
    both = (3, 2)  # the deepest block of three terms, and the middle one of the fourth
    expected = [
        Pass("teacher", GRID, gradient=way, depth=depth) for depth in both for way in ("none", "input")
    ]
    assert loss.passes(spec, GRID) == {"mmd": expected}


def test_encoders_of_pixels_see_a_window_that_is_decoded_once_for_all(spec: ModelSpec) -> None:
    encoders = [{"kind": "transnetv2", "weights": "w"}, {"kind": "transformers", "name": "n"}]
    mmd = {"encoder": encoders[0], "block": 0, "extra_terms": [{"encoder": encoders[1]}]}
    loss = LossConfig.model_validate({"mmd": mmd})
    window = LatentSize(5, 32, 32)
    passes = loss.passes(spec, GRID)["mmd"]
    assert [(one.clips, one.gradient) for one in passes] == [(2.0, "none"), (1.0, "input")] * 3
    assert all(one.grid == window for one in passes)
    assert [one.network for one in passes[::2]] == [
        "vae_decoder",
        loss.mmd.encoder,
        loss.mmd.extra_terms[0].encoder,
    ]
    assert [one.depth for one in passes[::2]] == [None, 1, None]


def test_what_learns_beside_the_student_learns_as_often_as_it_is_told(spec: ModelSpec) -> None:
    parts = {"dmd": {"guidance_scale": 3, "critic_updates": 5}, "gan": {"updates": 2, "block": [0, 1]}}
    loss = LossConfig.model_validate({"mmd": {"weight": 0}, **parts})
    assert loss.num_updates == 5
    assert loss.passes(spec, GRID) == {
        "mmd": [],
        "dmd": [Pass("teacher", GRID, 2), Pass("critic", GRID), Pass("critic", GRID, 5, "weights")],
        "gan": [
            Pass("teacher", GRID, gradient="input", depth=2),
            Pass("heads", GRID, gradient="input"),
            Pass("teacher", GRID, 4, depth=2),
            Pass("heads", GRID, 4, "weights"),
        ],
    }
