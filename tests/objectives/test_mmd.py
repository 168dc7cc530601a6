"""The MMD as an objective: what is compared with what, and comparisons that cannot be."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from swd_video.config import ConfigError
from swd_video.core.randomness import SampleDraws
from swd_video.objectives.encoders import BlockFeatures, TeacherEncoderConfig
from swd_video.objectives.kernels import LinearConfig, PseudoHuberConfig, RationalQuadraticConfig, RbfConfig
from swd_video.objectives.mmd import MmdObjective, MmdTermConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig

MakeConfig = Callable[..., DistillConfig]
MakeNetworks = Callable[[str], Networks]


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _objective(networks: Networks, terms: Sequence[MmdTermConfig], group: int) -> MmdObjective:
    return MmdObjective(terms, {TeacherEncoderConfig(): BlockFeatures("teacher", networks.model.spec)}, group)


TERMS = [
    {"kernel": LinearConfig()},
    {"kernel": PseudoHuberConfig(), "tokens": "frame"},
    {"kernel": LinearConfig(estimator="paired"), "join": "means"},
    {"kernel": RbfConfig(), "tokens": "motion"},
    {"kernel": RbfConfig(bandwidths=(0.5, 1.0)), "tokens": "tube", "tubes": (2, 1, 2), "join": "tokens"},
    {"kernel": RationalQuadraticConfig(alpha=0.5), "tokens": "change"},
    {"kernel": RbfConfig(bandwidths=(3.0,), bandwidth_unit="absolute"), "join": "means"},
    {"kernel": RbfConfig(random_features=16), "tokens": "frame"},
]


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_objective_moves_the_prediction_and_no_weight(term: dict[str, Any], networks: Networks) -> None:
    target, prompt_embeds = _randn(2, 4, 3, 4, 4), _randn(2, 48, 16, seed=2)
    predicted = _randn(2, 4, 3, 4, 4, seed=1).requires_grad_()
    objective = _objective(networks, [MmdTermConfig(block=1, **term)], 2)

    def loss(x0: torch.Tensor) -> torch.Tensor:
        return objective(networks, ClipPair(x0, target, prompt_embeds), SampleDraws(range(2), 4))

    if term["kernel"].estimator != "paired":
        assert loss(target).item() == pytest.approx(0.0, abs=1e-6)  # the same noise and sigma on both sides
    loss(predicted).backward()
    assert predicted.grad is not None and predicted.grad.abs().sum() > 0
    weights = [*networks.student.parameters(), *networks.model.transformer.parameters()]
    assert all(weight.grad is None for weight in weights)


def test_terms_add_up_and_share_the_teachers_passes(make_networks: MakeNetworks) -> None:
    networks = make_networks("full")
    target, predicted = _randn(4, 4, 3, 4, 4), _randn(4, 4, 3, 4, 4, seed=1)
    prompt_embeds = _randn(1, 48, 16, seed=2).expand(4, -1, -1)
    passes = []
    inner = networks.model.transformer.blocks[0]
    inner.register_forward_hook(lambda *_: passes.append(1))

    def loss(*terms: MmdTermConfig) -> float:
        passes.clear()
        objective = _objective(networks, terms, 2)
        return objective(
            networks, ClipPair(predicted, target, prompt_embeds), SampleDraws(range(4), 4)
        ).item()

    first = MmdTermConfig(block=1)
    second = MmdTermConfig(
        kernel=RbfConfig(), tokens="motion", block=(0, 2), block_weights=(1.0, 0.5), weight=3.0
    )
    noisier = MmdTermConfig(block=1, sigma_min=0.5, sigma_max=0.9)
    parts = [MmdTermConfig(kernel=RbfConfig(), tokens="motion", block=block) for block in (0, 2)]
    alone = [loss(term) for term in (first, noisier, *parts)]
    expected = alone[0] + 3 * (alone[2] + 0.5 * alone[3])
    assert loss(first, second) == pytest.approx(expected, rel=1e-5)
    assert len(passes) == 2  # one for the target, one for the prediction
    assert loss(first, second, noisier) == pytest.approx(expected + alone[1], rel=1e-5)
    assert len(passes) == 4


def test_clips_that_are_no_pairs_are_not_compared_one_by_one(make_networks: MakeNetworks) -> None:
    networks = make_networks("full")
    target, predicted = _randn(4, 4, 3, 4, 4), _randn(4, 4, 3, 4, 4, seed=1)
    embeds = _randn(1, 48, 16, seed=2).expand(4, -1, -1)

    def loss(*terms: MmdTermConfig, paired: bool) -> float:
        clips = ClipPair(predicted, target, embeds, paired)
        return _objective(networks, terms, 2)(networks, clips, SampleDraws(range(4), 4)).item()

    each, joined = MmdTermConfig(block=1), MmdTermConfig(block=1, join="means")
    assert loss(each, paired=True) > 0
    assert loss(each, paired=False) == 0
    assert loss(each, joined, paired=False) == loss(joined, paired=True) > 0


def test_clips_that_are_compared_are_noised_to_one_level(make_networks: MakeNetworks) -> None:
    networks = make_networks("full")
    target, prompt_embeds = _randn(4, 4, 3, 4, 4), _randn(1, 48, 16, seed=2).expand(4, -1, -1)
    seen = []

    def watch(module: torch.nn.Module, args: tuple, kwargs: dict[str, torch.Tensor]) -> None:
        seen.append(kwargs["timestep"])

    networks.model.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    for group in (2, 1):
        objective = _objective(networks, [MmdTermConfig(block=1)], group)
        objective(networks, ClipPair(target, target, prompt_embeds), SampleDraws(range(4), 4))
    assert [len(set(levels.tolist())) for levels in seen] == [2, 2, 4, 4]
    assert torch.equal(seen[0][::2], seen[0][1::2])


@pytest.mark.parametrize(
    ("term", "group", "message"),
    [
        (
            {"tokens": "tube", "tubes": [3, 1, 1]},
            1,
            r"loss\.mmd\[0\]\.tubes: \(3, 1, 1\) are more than the \(2, 2, 2\)",
        ),
        (
            {"kernel": {"kind": "rbf", "estimator": "unbiased"}, "tokens": "tube", "tubes": [2, 2, 2]},
            1,
            r"loss\.mmd\[0\]\.kernel\.estimator unbiased: needs sets of 2 tokens.*latent grid 2x4x4",
        ),
        ({"join": "means"}, 4, r"loss\.group: no caption of the 6 clips has 4 of them"),
    ],
)
def test_a_comparison_that_the_clips_cannot_give_is_refused(
    term: dict[str, Any], group: int, message: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_run(make_config(mmd=[term], parts={"group": group}, batch_size=4), tmp_path / "run")


def test_motion_needs_two_frames() -> None:
    MmdTermConfig(tokens="motion").check((2, 4, 4))
    with pytest.raises(ValueError, match="tokens motion: needs 2 frames of tokens, got 1"):
        MmdTermConfig(tokens="motion").check((1, 4, 4))
