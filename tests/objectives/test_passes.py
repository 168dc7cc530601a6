"""What objectives say that they run, and what really runs."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import WanPipeline

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.lora import CRITIC, lora_in_use
from swd_video.models.spec import ModelSpec
from swd_video.models.wan import WanModel
from swd_video.objectives.loss import LossConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair
from swd_video.objectives.passes import Pass

GRID = LatentSize(5, 40, 40)
PARTS: dict[str, dict[str, Any]] = {
    "mmd": {
        "mmd": [
            {"block": 0},
            {"kernel": {"kind": "rbf"}, "block": 1},
            {"sigma_max": 0.3},
            {"encoder": {"kind": "critic"}, "block": 2},
        ]
    },
    "dmd": {"dmd": {"guidance_scale": 3, "critic_updates": 2}},
    "dmd led by a weaker self": {"dmd": {"weaker": {"blocks": [1]}}},
    "dmd led at few noise levels": {"dmd": {"weaker": {"blocks": [0, 2], "sigma_max": 0.01}}},
    "gan": {"gan": {"updates": 3, "block": [0, 1]}},
}


@pytest.fixture
def spec(tiny_wan_pipe: WanPipeline) -> ModelSpec:
    return WanModel.from_pipeline(tiny_wan_pipe).spec


@pytest.mark.parametrize("name", PARTS)
def test_they_run_what_they_say(
    name: str,
    make_networks: Callable[[str], Networks],
    make_clips: Callable[..., ClipPair],
    tiny_schedule: ScaleSchedule,
) -> None:
    networks, clips, accelerator = make_networks("full"), make_clips(), Accelerator()
    part = name.split()[0]
    grid = LatentSize(*clips.target_x0.shape[2:])
    loss = LossConfig.model_validate({"mmd": [], "dmd": {}, **PARTS[name]})
    negative = {"negative_prompt": clips.prompt_embeds[:1]}
    # Whatever is looked at, a critic is there.
    built = {
        key: section.build(f"loss.{key}", networks, tiny_schedule, negative, accelerator, 0)
        for key, section in reversed(loss.objectives.items())
    }
    ran: Counter[tuple[str, bool, int]] = Counter()
    transformer, blocks = networks.model.transformer, networks.model.transformer.blocks
    who: list[str] = []

    def begin(_: torch.nn.Module, inputs: Any) -> None:
        who.append("critic" if lora_in_use(transformer) == CRITIC else "teacher")

    for index, block in enumerate(blocks):
        if index == 0:
            block.register_forward_pre_hook(begin)
        block.attn1.register_forward_hook(lambda *_, depth=index + 1: ran.update({_key(who, depth): 1}))

    def _key(who: list[str], depth: int) -> tuple[str, bool, int]:
        return who[-1], torch.is_grad_enabled(), depth

    built[part](networks, clips, SampleDraws(range(2), 0))
    if (learner := built[part].learner) is not None:
        learner.start(networks)
        for update in range(learner.updates):
            learner.loss(networks, clips.detached(), SampleDraws(range(2), update))

    said: Counter[tuple[str, bool, int]] = Counter()
    for one in loss.passes(networks.model.spec, grid, 0)[part]:
        for depth in range(1, (one.depth or len(blocks)) + 1):
            runs = depth - 1 not in one.left_out
            if isinstance(one.network, str) and one.network in ("teacher", "critic") and runs:
                said[one.network, one.gradient != "none", depth] += int(one.clips)
    assert ran == said


def test_terms_that_see_the_same_clips_share_a_pair_of_passes(spec: ModelSpec) -> None:
    terms = [{}, {"block": 0}, {"kernel": {"kind": "rbf"}, "block": 2}, {"sigma_max": 0.3}]
    loss = LossConfig.model_validate({"mmd": terms})
    both = (3, 2)  # the deepest block of three terms, and the middle one of the fourth
    expected = [
        Pass("teacher", GRID, gradient=way, depth=depth) for depth in both for way in ("none", "input")
    ]
    assert loss.passes(spec, GRID, 0) == {"mmd": expected}


def test_encoders_of_pixels_see_a_window_that_is_decoded_once_for_all(spec: ModelSpec) -> None:
    encoders = [{"kind": "transnetv2", "weights": "w"}, {"kind": "transformers", "name": "n"}]
    loss = LossConfig.model_validate(
        {"mmd": [{"encoder": encoders[0], "block": 0}, {"encoder": encoders[1]}]}
    )
    window = LatentSize(5, 32, 32)
    passes = loss.passes(spec, GRID, 0)["mmd"]
    assert [(one.clips, one.gradient) for one in passes] == [(2, "none"), (1, "input")] * 3
    assert all(one.grid == window for one in passes)
    assert [one.network for one in passes[::2]] == ["vae_decoder", *(term.encoder for term in loss.mmd)]
    assert [one.depth for one in passes[::2]] == [None, 1, None]


def test_a_network_that_one_comparison_runs_to_an_unknown_depth_counts_in_full(spec: ModelSpec) -> None:
    encoder = {"kind": "transformers", "name": "n"}
    terms = [{"encoder": encoder}, {"encoder": encoder, "block": 0}]
    for mmd in (terms, terms[::-1]):
        passes = LossConfig.model_validate({"mmd": mmd}).passes(spec, GRID, 0)["mmd"]
        assert {one.depth for one in passes} == {None}


def test_what_learns_beside_the_student_learns_as_often_as_it_is_told(spec: ModelSpec) -> None:
    loss = LossConfig.model_validate({"mmd": [{"weight": 0}], **PARTS["dmd"], **PARTS["gan"]})
    assert loss.num_updates == 3
    assert loss.passes(spec, GRID, 0) == {
        "dmd": [Pass("teacher", GRID, 2), Pass("critic", GRID), Pass("critic", GRID, 2, "weights")],
        "gan": [
            Pass("teacher", GRID, 6, depth=2),
            Pass("teacher", GRID, gradient="input", depth=2),
            Pass("heads", GRID, gradient="input"),
            Pass("heads", GRID, 6, "weights"),
        ],
    }


@pytest.mark.parametrize(
    ("weaker", "passes"),
    [
        ({"blocks": [1]}, [Pass("teacher", GRID, 1.0, left_out=(1,))]),
        ({"blocks": [1], "sigma_min": 0.5, "sigma_max": 0.9}, [Pass("teacher", GRID, 0.5, left_out=(1,))]),
        ({"blocks": [1], "sigma_max": 0.375}, [Pass("teacher", GRID, 0.25, left_out=(1,))]),
        ({"blocks": [1], "sigma_max": 0.1}, []),
        ({"transformer_file": "early.safetensors"}, [Pass("weaker", GRID, 1.0)]),
    ],
)
def test_a_weaker_self_runs_for_the_clips_that_it_leads(
    spec: ModelSpec, weaker: dict[str, Any], passes: list[Pass]
) -> None:
    dmd = {"guidance_scale": 1, "sigma_min": 0.25, "sigma_max": 0.75, "weaker": weaker}
    loss = LossConfig.model_validate({"mmd": [], "dmd": dmd})
    assert [one for one in loss.passes(spec, GRID, 0)["dmd"] if one.network != "critic"][1:] == passes


def test_a_discriminator_of_pixels_sees_a_window_that_the_fast_decoder_decodes(spec: ModelSpec) -> None:
    encoder, window = (
        {"kind": "transnetv2", "weights": "w"},
        {"frames": 2, "crop": None, "through": "decoder"},
    )
    gan = {"encoder": encoder, "window": window, "block": 1}
    loss = LossConfig.model_validate({"mmd": [], "gan": gan})
    assert loss.gan is not None and loss.gan.decodes == "decoder"
    shown = LatentSize(2, 40, 40)
    # True clips and the student's without a way back, and the student's twice on its own behalf.
    assert loss.passes(spec, GRID, 0)["gan"] == [
        Pass("decoder", shown, 3),
        Pass("decoder", shown, gradient="input"),
        Pass(loss.gan.encoder, shown, 3, depth=2),
        Pass(loss.gan.encoder, shown, gradient="input", depth=2),
        Pass("heads", GRID, gradient="input"),
        Pass("heads", GRID, 2, "weights"),
    ]
