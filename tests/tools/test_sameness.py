import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swd_video.config import load_config_as
from swd_video.evaluation.config import EvaluateConfig
from swd_video.training.config import load_config
from tools import sameness


def test_every_value_that_changes_is_named() -> None:
    before = {
        "mmd": {"losses": {"loss/total": [0.5, 0.25]}, "weights": {"a": "x"}},
        "plan": {"gpus": [], "size": 3},
    }
    assert sameness.differences(before, json.loads(json.dumps(before))) == []
    after = {
        "mmd": {"losses": {"loss/total": [0.5, 0.25 + 1e-6]}, "weights": {"b": "x"}},
        "plan": {"gpus": []},
    }
    assert [line.split(":")[0] for line in sameness.differences(before, after)] == [
        "mmd.losses.loss/total.1",
        "mmd.weights.a",
        "plan.size",
        "mmd.weights.b",
    ]
    assert sameness.differences({"a": 1.0}, {"a": 1.0 + 1e-12}) == []


def test_the_hash_of_tensors_is_of_names_types_shapes_and_bytes(tmp_path: Path) -> None:
    weight = torch.arange(6.0)

    def hashed(tensors: dict[str, torch.Tensor], **metadata: str) -> dict[str, object]:
        save_file(tensors, tmp_path / "file.safetensors", metadata=metadata)
        return sameness.tensors_hash(tmp_path / "file.safetensors")

    whole = hashed({"a": weight, "b": weight + 1})
    assert whole["tensors"] == 2
    assert hashed({"a": weight, "b": weight + 1}, format="pt") == whole
    others = (weight + 1e-6, weight.reshape(2, 3), weight.view(torch.int32))
    different = [hashed({"a": other, "b": weight + 1}) for other in others]
    different += [hashed({"a": weight + 1, "b": weight}), hashed({"a": weight, "c": weight + 1})]
    assert len({str(one["sha256"]) for one in [whole, *different]}) == 6


@pytest.mark.parametrize("name", ["evaluate", *sameness.TRAININGS])
def test_its_configs_have_today_s_keys(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(sameness.config_text(name, tmp_path / "clips", tmp_path))
    if name == "evaluate":
        assert len(load_config_as(EvaluateConfig, path).rows) == 3
    else:
        assert len(load_config(path).schedule) == 2


def test_every_plan_of_the_repository_is_among_the_runs() -> None:
    runs = sameness.all_runs()
    assert {
        "plan:configs/pocket/swd.yaml",
        "plan:configs/study/mmd.yaml",
        "plan:configs/ltx/4stage.yaml",
    } <= set(runs)
    assert not any("scripts" in name or "evaluate.yaml" in name for name in runs)
