"""Objectives and encoders that no part of the package knows: named in a config, trained with, recorded."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from swd_video.config import ConfigError, dump_config
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.pixel_encoders import PixelEncoder
from swd_video.models.spec import ModelSpec
from swd_video.objectives.encoders import PixelEncoderConfig
from swd_video.objectives.gan import GanConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair, Objective, ObjectiveConfig
from swd_video.objectives.passes import Pass
from swd_video.student.student import Student
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.loop import train

MakeConfig = Callable[..., DistillConfig]


class BrightnessConfig(ObjectiveConfig):
    """Clips shall be as bright as the true ones."""

    kind: str
    power: int = 2
    """Of the difference."""

    def build(
        self,
        key: str,
        networks: Networks,
        schedule: ScaleSchedule,
        prompts: Mapping[str, Tensor],
        accelerator: Accelerator,
        seed: int,
    ) -> "Brightness":
        """Nothing has to be made."""
        return Brightness(self.power, weight=self.weight)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """No network runs."""
        return []


@dataclass(frozen=True)
class Brightness(Objective):
    """Attributes: power: of the difference."""

    power: int

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Tensor:
        """The mean over clips."""
        if not clips.paired:
            return clips.predicted_x0.new_zeros(())
        return (clips.predicted_x0 - clips.target_x0).mean((1, 2, 3, 4)).abs().pow(self.power).mean()


class EachClipConfig(BrightnessConfig):
    """Forgets to take the mean over clips."""

    def build(self, *_: object) -> "EachClip":  # type: ignore[override]
        """Nothing has to be made."""
        return EachClip()


class EachClip(Objective):
    """A number for each clip."""

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Tensor:
        """No mean."""
        return clips.predicted_x0.mean((1, 2, 3, 4))


class HalfConfig(ObjectiveConfig):
    """Is not built and counts no passes."""

    kind: str


class PoolConfig(PixelEncoderConfig):
    """Looks at blurred pixels."""

    kind: str
    size: int = 8
    """Pixels that become one."""

    def load(self, device: torch.device) -> PixelEncoder:
        """Nothing has to be loaded."""
        return Pool(self.size)


class Pool(PixelEncoder):
    """A block, and no weights."""

    name, num_blocks = "pool", 1

    def __init__(self, size: int) -> None:
        self._size, self.network = size, torch.nn.Identity()

    def grid(self, size: PixelSize, block: int) -> tuple[int, int, int]:
        """A token for each blurred pixel."""
        return size.frames, size.height // self._size, size.width // self._size

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        pooled = torch.nn.functional.avg_pool3d(pixels, (1, self._size, self._size))
        return [pooled.permute(0, 2, 3, 4, 1) for _ in blocks]


OBJECTIVE, ENCODER = f"{__name__}:BrightnessConfig", f"{__name__}:PoolConfig"


def test_a_run_with_both_says_so(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        "lora",
        mmd=[{"encoder": {"kind": ENCODER, "size": 4}}],
        parts={"others": [{"kind": OBJECTIVE, "weight": 0.5}], "window": {"frames": 1}},
        steps=1,
    )
    run = build_run(config, tmp_path / "run")
    report = run.stepper.take_step(0)
    assert set(report.losses) == {"mmd", "others[0]"} and min(report.losses.values()) > 0
    assert [part.weight for part in run.stepper.objectives.values()] == [1, 0.5]

    train(build_run(config, tmp_path / "run"))
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert saved == config and isinstance(saved.loss.others[0], BrightnessConfig)
    assert isinstance(saved.loss.mmd[0].encoder, PoolConfig) and saved.loss.mmd[0].encoder.size == 4
    assert "power: 2" in dump_config(config)
    student = tmp_path / "run" / "student"
    settings = json.loads((student / "student.json").read_text())["made_of"]["settings"]
    assert settings["loss.others"] == [{"weight": 0.5, "stages": None, "kind": OBJECTIVE, "power": 2}]
    assert settings["loss.mmd"][0]["encoder"] == {"kind": ENCODER, "size": 4}
    assert [one.name for one in Student.load(student).trained_through or ()] == [ENCODER]


def test_an_objective_that_gives_no_single_number_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(mmd=[], parts={"others": [{"kind": f"{__name__}:EachClipConfig"}]})
    message = r"^loss\.others\[0\]: got a tensor of shape \(2,\), expected a tensor of one number"
    with pytest.raises(ValueError, match=message):
        build_run(config, tmp_path / "run").stepper.take_step(0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"others": [{"kind": OBJECTIVE, "pwer": 1}]},
            r"loss\.others\[0\]\.pwer: unknown key; did you mean power\?",
        ),
        ({"others": [{"kind": f"{__name__}:HalfConfig"}]}, r"loss\.others\[0\]: kind: .* lacks build, passes"),
        ({"others": [{"kind": ENCODER}]}, r"loss\.others\[0\]: kind: .* is no ObjectiveConfig; derive it"),
        ({"others": [{"kind": "no.such.module:Thing"}]}, r"loss\.others\[0\]: no\.such\.module:Thing: No module"),
        ({"others": [{"weight": 1}]}, r"loss\.others\[0\]: kind: got None, expected an importable module:Class"),
    ],
)  # fmt: skip
def test_what_is_no_objective_is_refused_in_a_line(
    parts: dict, message: str, make_config: MakeConfig
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make_config(parts=parts)
    assert "\n" not in str(error.value)


class OwnGanConfig(GanConfig):
    """A discriminator like `loss.gan`'s."""

    kind: str


def test_two_networks_of_one_name_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    parts = {"gan": {"weight": 0.1}, "others": [{"kind": f"{__name__}:OwnGanConfig", "weight": 0.1}]}
    config = make_config(mmd=[], parts=parts)
    message = r"^loss\.others\[0\]: trains a network called 'discriminator' .* and so does loss\.gan; give"
    with pytest.raises(ConfigError, match=message):
        build_run(config, tmp_path / "run")
