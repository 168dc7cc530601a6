"""`swd-video bench training`: one copy of the base weights, and a ratio that was measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swd_video.cli.bench import run
from swd_video.cli.training_cost import measure_training
from swd_video.config.load import dump_config
from swd_video.config.schema import DistillConfig

MakeConfig = Callable[..., DistillConfig]


@pytest.mark.parametrize(
    ("kind", "parts", "copies", "beside"),
    [
        ("lora", {}, 1, {"student"}),
        ("lora", {"dmd": {"critic_rank": 2, "scale_adapted": True}}, 1, {"student", "critic"}),
        ("full", {}, 2, set()),
    ],
    ids=["lora", "lora with dmd", "full"],
)
def test_copies_of_the_weights(
    kind: str, parts: dict[str, object], copies: int, beside: set[str], make_config: MakeConfig
) -> None:
    result = measure_training(make_config(kind, parts=parts), steps=1, rounds=1)
    memory = result["memory"]
    assert memory["base_copies"] == pytest.approx(copies)
    assert set(memory["additions_gib"]) == beside
    assert all(0 < size < memory["one_copy_gib"] for size in memory["additions_gib"].values())
    assert memory["peak_gib"] > memory["alive_gib"] > memory["base_gib"] > 0
    assert result["step_over_bare"] == pytest.approx(result["step_seconds"] / result["bare_seconds"])


def test_the_command_prints_one_object(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config()))
    assert (
        run(["training", str(path), "--steps", "1", "--rounds", "1", "--train.batch_size", "1", "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["losses"] == ["mmd"] and result["batch_size"] == 1
    with pytest.raises(ValueError, match="--rounds: got 0, expected at least 1"):
        run(["training", str(path), "--rounds", "0"])
