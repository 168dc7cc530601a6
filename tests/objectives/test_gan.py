"""The discriminator, and the student that deceives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from swd_video.config import ConfigError
from swd_video.core.decoder import StreamingDecoder
from swd_video.core.randomness import SampleDraws
from swd_video.losses.gan import hinge_discriminator_loss
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.objectives.gan import (
    ConvolutionHead,
    Discriminator,
    GanConfig,
    GanObjective,
    _deviation,
)
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair
from swd_video.student.student import Student
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.loop import train

MakeConfig = Callable[..., DistillConfig]
MakeClips = Callable[..., ClipPair]


@pytest.mark.parametrize("head", ["mlp", "conv3d"])
def test_a_discriminator_learns_to_tell_and_the_student_to_deceive(
    head: Literal["mlp", "conv3d"], networks: Networks, make_clips: MakeClips
) -> None:
    clips = make_clips()
    config = GanConfig(head=head, hidden=16, block=(0, 2), lr=1e-2, sigma_max=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder, blocks = config.see("loss.gan", networks.model.spec, torch.device("cpu"))
        discriminator = Discriminator(config, config.heads(encoder, blocks), encoder, blocks)
    discriminator.start(networks)
    losses = []
    for number in range(40):
        discriminator.optimizer.zero_grad()
        loss = discriminator.loss(networks, clips.detached(), SampleDraws(range(2), number))
        loss.backward()
        discriminator.optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

    objective, x0 = GanObjective(discriminator), clips.predicted_x0
    before = objective(networks, clips, SampleDraws(range(2), 0))
    before.backward()
    assert x0.grad is not None and all(w.grad is None for w in networks.trainable_parameters().values())
    moved = ClipPair(x0.detach() - 0.5 * x0.grad / x0.grad.abs().mean(), clips.target_x0, clips.prompt_embeds)
    assert objective(networks, moved, SampleDraws(range(2), 0)) < before


def test_heads_of_groups_find_out_who_makes_the_clips_of_a_prompt_alike() -> None:
    """Each clip by itself says nothing: both sides draw from the same clips, and one draws each of them twice."""

    def loss_after_training(group: int) -> float:
        torch.manual_seed(0)
        head, draws = ConvolutionHead(8, 8, group), torch.Generator().manual_seed(1)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        losses = []
        for _ in range(150):
            varied = torch.randn(32, 8, 8, generator=draws)
            alike = torch.randn(16, 8, 8, generator=draws).repeat_interleave(2, dim=0)
            loss = hinge_discriminator_loss(head(varied, (2, 2, 2)), head(alike, (2, 2, 2)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses[-20:]) / 20

    assert loss_after_training(1) > 1.8, "2 is a blind one's"
    assert loss_after_training(2) < 0.5


def test_the_deviation_of_a_group_is_that_of_its_clips() -> None:
    hidden = torch.randn(6, 5, 2, 3, 4, dtype=torch.float64)
    apart = hidden.view(2, 3, 5, 2, 3, 4).std(dim=1, correction=0).mean(dim=(1, 2, 3, 4))
    expected = apart.repeat_interleave(3)[:, None, None, None, None].expand(6, 1, 2, 3, 4)
    assert torch.allclose(_deviation(hidden, 3), expected, rtol=1e-6)
    assert _deviation(hidden[:1], 3).abs().max() < 1e-3, "a clip is not apart from itself"


@pytest.mark.parametrize("through", ["vae", "decoder"])
def test_one_that_looks_at_pixels_moves_what_lies_in_its_window(
    through: str,
    make_networks: Callable[[str], Networks],
    make_clips: MakeClips,
    tiny_decoder: Callable[..., StreamingDecoder],
    encoders: Path,
) -> None:
    networks, clips = make_networks("full"), make_clips()
    networks.model.decoder = tiny_decoder(channels=4).requires_grad_(False)
    encoder = {"kind": "transnetv2", "weights": str(encoders / "trunk.safetensors")}
    window = {"frames": 2, "crop": [3, 3], "through": through}
    config = GanConfig.model_validate(
        {"encoder": encoder, "window": window, "block": [0, 1], "hidden": 8, "lr": 1e-2}
    )
    seen, blocks = config.see("loss.gan", networks.model.spec, torch.device("cpu"))
    discriminator = Discriminator(config, config.heads(seen, blocks), seen, blocks)
    discriminator.start(networks)
    discriminator.loss(networks, clips.detached(), SampleDraws(range(2), 0)).backward()
    assert all(weight.grad is not None for weight in discriminator.parameters.values())
    GanObjective(discriminator)(networks, clips, SampleDraws(range(2), 0)).backward()
    gradient = clips.predicted_x0.grad
    assert gradient is not None and gradient.isfinite().all()
    assert 0 < (gradient != 0).float().mean() < 1, "what lies outside of the window is not moved"


def test_a_student_trained_through_pixels_knows_its_networks_and_goes_on_with_the_same_decoder(
    make_config: MakeConfig,
    tiny_decoder: Callable[..., StreamingDecoder],
    tiny_wan_folder: Path,
    encoders: Path,
    tmp_path: Path,
) -> None:
    file, out = tmp_path / "decoder.safetensors", tmp_path / "run"
    tiny_decoder(vae=fingerprint_vae(tiny_wan_folder)).save(file)
    encoder = {"kind": "transformers", "name": str(encoders / "videomae")}
    gan = {"encoder": encoder, "window": {"frames": 2, "crop": [2, 2], "through": "decoder"}, "block": [0, 1]}
    with pytest.raises(ConfigError, match=r"load\.decoder: names no file, but clips are decoded for a loss"):
        make_config(mmd=[], parts={"gan": gan})
    make_config(mmd=[], parts={"gan": {"encoder": encoder}}, steps=1)
    overrides: dict[str, Any] = {"load.decoder": str(file), "loss.gan": gan}
    config = load_config(tmp_path / "config-in.yaml", overrides)
    train(build_run(config, out))
    student = Student.load(out / "student")
    assert student.decoder is not None and student.trained_through is not None
    assert [network.name for network in student.trained_through] == ["videomae"]
    # Another decoder under the same name would train another student.
    tiny_decoder(vae=fingerprint_vae(tiny_wan_folder), seed=1).save(file)
    more = load_config(tmp_path / "config-in.yaml", overrides | {"train.steps": 2})
    with pytest.raises(ConfigError, match="another file that a loss reads"):
        build_run(more, out)


@pytest.mark.parametrize(
    ("gan", "message"),
    [
        ({"window": {"frames": 1}}, r"loss\.gan: window: this encoder sees no pixels"),
        ({"encoder": {"kind": "critic"}}, r"loss: gan: an encoder is critic, but nothing trains one"),
        (
            {"encoder": {"kind": "transnetv2", "weights": "w"}, "sigma_max": 0.3},
            r"loss\.gan: sigma_min and sigma_max: this encoder is shown clean clips",
        ),
        ({"group": 2, "head": "mlp"}, r"loss\.gan: group: heads of mlp judge clip by clip"),
        ({"group": 2}, r"loss: gan: group is 2, and loss\.group 1; set both to the same number"),
    ],
)
def test_discriminators_that_cannot_be(gan: dict[str, Any], message: str, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(parts={"gan": gan})
