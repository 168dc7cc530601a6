"""`swd-video bench training`: one copy of the base weights, and a ratio that was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swd_video.cli.bench import run
from swd_video.config import dump_config
from swd_video.cost.training_benchmark import bare_passes, measure_training, prepare
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig

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
    assert result["step_over_bare_of_processor_time"] > 0
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


def test_what_the_student_samples_for_itself_counts_among_the_bare_passes(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(
        "lora", backward_simulation=1.0, stage_weights=[1e-9, 1e-9, 1], parts={"dmd": {"critic_updates": 3}}
    )
    stepper = build_run(config, tmp_path / "run").stepper
    batches = [batch for update in range(3) for batch in stepper.micro_batches(0, 0, update)]
    prepared = [prepare(stepper, batch) for batch in batches]
    assert [batch.stage_index for batch in batches] == [2, 2, 2]

    passes: list[torch.Size] = []

    def note(network: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        passes.append((*args, kwargs.get("hidden_states"))[0].shape)

    stepper.networks.student.register_forward_pre_hook(note, with_kwargs=True)
    bare_passes(stepper, prepared)
    bare, passes = passes, []
    stepper.take_step(0)
    # Two stages before, its own stage, and the teacher's half passes, which share the network under a LoRA.
    assert sorted(bare) == sorted(passes) and len({shape[2:] for shape in bare}) == 3
