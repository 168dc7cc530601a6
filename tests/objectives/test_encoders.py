"""What the MMD looks through: the teacher, the critic, and networks of pixels behind the VAE."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.grid import LatentSize, window_size
from swd_video.core.randomness import SampleDraws
from swd_video.core.windows import Window, draw_window
from swd_video.cost.counting import count_kept
from swd_video.evaluation.overlap import check_overlap
from swd_video.models.pixel_encoders import TransformersEncoder
from swd_video.models.recomputation import decode_clips
from swd_video.models.wan import WanModel
from swd_video.objectives.dmd import Critic, DmdConfig
from swd_video.objectives.encoders import (
    BlockFeatures,
    Comparison,
    PixelFeatures,
    TransformersEncoderConfig,
    WindowConfig,
)
from swd_video.objectives.mmd import MmdObjective, MmdTermConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair
from swd_video.student.student import Student
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.idle_parts import moved_to
from swd_video.training.loop import train

MakeConfig = Callable[..., DistillConfig]
MakeClips = Callable[..., ClipPair]


@pytest.fixture
def networks(tiny_wan_pipe: WanPipeline) -> Networks:
    return Networks.with_copy(WanModel.from_pipeline(tiny_wan_pipe))


def _comparison(
    networks: Networks, clips: ClipPair, window: WindowConfig | None = None, seed: int = 1
) -> Comparison:
    return Comparison(
        networks, clips, SampleDraws(range(2), seed), 1, window or WindowConfig(frames=None, crop=None)
    )


def test_clean_latents_and_the_critics_blocks(networks: Networks, make_clips: MakeClips) -> None:
    clips = make_clips(size=6)
    teacher, clean = (BlockFeatures("teacher", networks.model.spec, clean) for clean in (False, True))
    of_critic = BlockFeatures("critic", networks.model.spec)
    critic = Critic(
        networks,
        DmdConfig(
            critic_rank=2, critic_targets=("to_q", "to_v"), critic_lr=1e-2, sigma_min=0.1, sigma_max=0.9
        ),
    )
    critic.start(networks)
    found = {
        name: source.tokens(_comparison(networks, clips), (0.3, 0.5), [1])[0][1]
        for name, source in (("teacher", teacher), ("clean", clean), ("critic", of_critic))
    }
    assert found["teacher"].shape == (2, 3, 3, 3, 32) and teacher.grid(LatentSize(3, 6, 6), 1) == (3, 3, 3)
    assert torch.equal(found["critic"], found["teacher"]), "a critic starts as the teacher"
    seen = networks.features("teacher", clips.predicted_x0, torch.zeros(2), clips.prompt_embeds, [1])[1]
    assert torch.equal(found["clean"].flatten(1, 3), seen) and not torch.equal(
        found["clean"], found["teacher"]
    )

    critic.loss(networks, clips.detached(), SampleDraws(range(2), 0)).backward()
    critic.optimizer.step()
    learned, _ = of_critic.tokens(_comparison(networks, clips), (0.3, 0.5), [1])
    again, _ = teacher.tokens(_comparison(networks, clips), (0.3, 0.5), [1])
    assert not torch.equal(learned[1], found["critic"]) and torch.equal(again[1], found["teacher"])
    learned[1].square().sum().backward()
    assert clips.predicted_x0.grad is not None and clips.predicted_x0.grad.any()


def test_pixels_of_one_window_of_both(networks: Networks, make_clips: MakeClips, encoders: Path) -> None:
    clips, window = make_clips(size=6), WindowConfig(frames=2, crop=(4, 4))
    seen = _comparison(networks, clips, window)
    with torch.no_grad():
        target = seen.pixels("target")
    predicted = seen.pixels("predicted")
    assert predicted.shape == (2, 3, 5, 32, 32) and not target.requires_grad
    same = ClipPair(clips.target_x0, clips.target_x0, clips.prompt_embeds)
    seen = _comparison(networks, same, window)
    assert torch.equal(seen.pixels("predicted"), seen.pixels("target"))
    places = {draw_window(LatentSize(3, 6, 6), LatentSize(2, 4, 4), _seeded(n)).start for n in range(200)}
    assert len(places) == 2 * 3 * 3, "every place is drawn"
    assert window_size(LatentSize(2, 3, 9), 5, (4, 4)) == LatentSize(2, 3, 4)
    cut = Window((1, 2, 0), LatentSize(2, 3, 4)).cut(clips.target_x0)
    assert torch.equal(cut, clips.target_x0[:, :, 1:, 2:5, :4])

    encoder = TransformersEncoder(str(encoders / "videomae"))
    source = PixelFeatures(encoder, networks.model.spec, window)
    config = TransformersEncoderConfig(name="videomae")
    terms = [MmdTermConfig(encoder=config, block=(0, 1), tokens=tokens) for tokens in ("clip", "motion")]
    objective = MmdObjective(terms, {config: source}, window=window)
    assert objective(networks, same, SampleDraws(range(2), 1)).item() == pytest.approx(0, abs=1e-9)
    loss = objective(networks, clips, SampleDraws(range(2), 1))
    loss.backward()
    gradient = clips.predicted_x0.grad
    assert loss > 0 and gradient is not None and gradient.isfinite().all()
    assert 0 < (gradient != 0).float().mean() < 1, "what lies outside of the window is not moved"
    assert not any(weight.grad is not None for weight in networks.model.vae.parameters())


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_decoding_keeps_pixels_alone_and_gives_the_same_gradient(
    networks: Networks, make_clips: MakeClips
) -> None:
    model, latents = networks.model, make_clips(2).predicted_x0
    plain, frugal = (
        count_kept(lambda decode=decode: decode(latents), model.vae)
        for decode in (model.decode, lambda x: decode_clips(model.decode, x))
    )
    assert frugal < 0.02 * plain
    gradients: list[Tensor] = []
    for decode in (model.decode, lambda x: decode_clips(model.decode, x)):
        (gradient,) = torch.autograd.grad(decode(latents).square().sum(), latents)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_modules_go_back_to_where_they_were() -> None:
    module = torch.nn.Linear(2, 2, device="meta")  # stands for another device
    with moved_to(torch.device("meta"), module):
        pass
    assert module.weight.is_meta


def test_a_student_says_which_networks_of_pixels_trained_it(
    make_config: MakeConfig, encoders: Path, tmp_path: Path
) -> None:
    name = str(encoders / "videomae")
    videomae = {"kind": "transformers", "name": name}
    mmd = [
        {"encoder": videomae},
        {"encoder": videomae, "kernel": {"kind": "rbf"}, "tokens": "change"},
        {"sigma_max": 0.4},
        {
            "encoder": {"kind": "transnetv2", "weights": str(encoders / "trunk.safetensors")},
            "block": [0, 2],
            "tokens": "tube",
            "tubes": [2, 1, 1],
        },
    ]
    config = make_config("lora", mmd=mmd, parts={"window": {"frames": 2, "crop": [2, 2]}}, steps=1)
    run = build_run(config, tmp_path / "run")
    (first,), (second,) = (run.stepper.micro_batches(step, 0) for step in range(2))
    losses = [run.stepper.loss(batch).item() for batch in (first, first, second)]
    assert losses[0] == losses[1] != losses[2]
    train(run)
    student = tmp_path / "run" / "student"
    written = Student.load(student).trained_through
    assert written is not None and [record.name for record in written] == ["videomae", "transnetv2"]
    assert load_config(tmp_path / "run" / "config.yaml") == config

    (tmp_path / "run" / "config.yaml").unlink()
    assert check_overlap(student, {"metrics.encoder": "efficientnet"})
    for judge in (name, "transnetv2"):
        with pytest.raises(ValueError, match=r"metrics\.encoder: .*student\.json: encoders"):
            check_overlap(student, {"metrics.encoder": judge})


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"encoder": {"kind": "critic"}}, r"mmd: an encoder is critic, but nothing trains one; add loss\.dmd"),
        (
            {"encoder": {"kind": "teacher", "clean": True}, "sigma_max": 0.3},
            r"loss\.mmd\[0\]: sigma_min and sigma_max: this encoder is shown clean clips",
        ),
        ({"encoder": {"kind": "transformers", "name": "no/where/x"}}, r"loss\.mmd\[0\]\.encoder: .* no such folder"),
        (
            {"encoder": {"kind": "transnetv2", "weights": "nowhere"}},
            r"loss\.mmd\[0\]\.encoder: nowhere: does not exist; .*\. `python -m tools\.transnetv2 --out FILE`",
        ),
        ({"encoder": "VIDEOMAE", "block": 2}, r"loss\.mmd\[0\]\.block: 2 does not exist; .*videomae has blocks 0 to 1"),
        (
            {"encoder": "VIDEOMAE", "frames": 1, "tokens": "motion"},
            r"loss\.mmd\[0\]\.tokens motion: needs 2 frames of tokens, got 1; .* block 1 of",
        ),
        (
            {"encoder": "VIDEOMAE", "tokens": "tube", "tubes": [1, 8, 1]},
            r"loss\.mmd\[0\]\.tubes: \(1, 8, 1\) are more than the \(2, 4, 4\) tokens",
        ),
    ],
)  # fmt: skip
def test_impossible_encoders_are_refused(
    term: dict[str, Any], message: str, make_config: MakeConfig, encoders: Path, tmp_path: Path
) -> None:
    if term.get("encoder") == "VIDEOMAE":
        term = {**term, "encoder": {"kind": "transformers", "name": str(encoders / "videomae")}}
    parts = {"window": {"frames": term.pop("frames")}} if "frames" in term else {}
    with pytest.raises(ConfigError, match=message):
        build_run(make_config(mmd=[term], parts=parts), tmp_path / "run")


def test_a_window_is_for_encoders_of_pixels(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="window: no encoder here sees pixels"):
        make_config(parts={"window": {"frames": 1}})
