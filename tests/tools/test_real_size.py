import json
from pathlib import Path

import pytest
import torch

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.cost.architecture import load_architecture
from swd_video.cost.counting import count_flops
from tools import real_size

CONFIG = Path(__file__).parents[2] / "configs" / "pocket" / "swd.yaml"


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["real_size", str(CONFIG), "--size", "3x8x8", *arguments])
    real_size.main()


def test_the_network_has_the_model_s_shape_and_no_default_changes() -> None:
    architecture = load_architecture("pocket-wan")
    network = real_size.random_transformer(architecture, torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32
    parameters = dict(network.named_parameters())
    described = dict(architecture.parts["transformer"].named_parameters())
    assert {name: p.shape for name, p in parameters.items()} == {n: p.shape for n, p in described.items()}
    assert {p.dtype for p in parameters.values()} == {torch.bfloat16}
    assert {p.device.type for p in parameters.values()} == {"cpu"}


def test_what_is_predicted_is_what_runs() -> None:
    architecture = load_architecture("pocket-wan")
    network = real_size.random_transformer(architecture, torch.float32)
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 4, 4)), Stage(0.5, LatentSize(3, 8, 8))))
    stages, full = real_size.measure(architecture, network, schedule, repeats=1)
    assert [row.grid for row in stages] == ["1x4x4", "3x8x8"] and [row.tokens for row in stages] == [4, 48]
    assert [row.grid for row in full] == ["3x8x8", "3x8x8"]
    ran = count_flops(lambda: real_size.clip_seconds(architecture, network, schedule))
    assert sum(row.tflops for row in stages) * 1e12 == pytest.approx(ran)
    assert all(row.seconds > 0 for row in (*stages, *full))


def test_the_ratio_is_of_the_whole_clip_to_all_full_steps() -> None:
    def rows(*costs: tuple[float, float]) -> list[real_size.StageTime]:
        return [real_size.StageTime("1x2x2", 1.0, 1, tflops, 0.1, seconds) for tflops, seconds in costs]

    result = real_size.summarise(rows((1.0, 3.0), (3.0, 9.0)), rows((4.0, 10.0), (4.0, 10.0)))
    assert (result["predicted_ratio"], result["measured_ratio"]) == (0.5, 0.6)
    assert result["ratio_deviation"] == pytest.approx(0.2)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _main(monkeypatch, "--repeats", "2", "--json")
    result = json.loads(capsys.readouterr().out)
    assert [row["sigma"] for row in result["full_steps"]] == [row["sigma"] for row in result["stages"]]
    assert result["stages"][-1]["grid"] == "3x8x8" and result["dtype"] == "bfloat16"
    _main(monkeypatch, "--repeats", "1")
    table = capsys.readouterr().out
    assert "clip : full steps, predicted" in table and "stage 1" in table
