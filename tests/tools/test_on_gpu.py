"""The list of a GPU, run on the CPU with the pocket model's shape: all that a CPU has, and what is kept of it."""

import json
from pathlib import Path

import pytest
import torch

from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import load_architecture
from swd_video.cost.networks import Transformer
from swd_video.training.config import load_config
from tools import on_gpu

CONFIG = """
model: pocket-wan
data: {cache: nowhere}
schedule:
  - {sigma: 1.00, frames: 2, height: 4, width: 4}
  - {sigma: 0.64, frames: 3, height: 6, width: 6, attention: {frames: 3, height: 2, width: 6}}
loss: {mmd: [{kernel: {kind: linear}, block: 3}]}
train: {kind: lora, rank: 4, batch_size: 4, micro_batch_size: 2, stages_per_step: 2, gradient_checkpointing: true}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def test_stages_are_timed_beside_what_is_counted(config: Path) -> None:
    arguments = on_gpu.Arguments(size="3x8x8", device="cpu", dtype="bfloat16", repeats=1)
    found = on_gpu.run_part("native", str(config), arguments)
    assert [row["grid"] for row in found["stages"]] == ["2x6x6", "3x8x8"]
    assert [row["tokens"] for row in found["stages"]] == [18, 48]
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in found["stages"])
    architecture = load_architecture("pocket-wan")
    assert found["weights_gib"] * 2**30 == 2 * architecture.num_parameters["transformer"]
    # The last stage attends in windows.
    counter = Transformer(architecture)
    everywhere = [counter.evaluation(LatentSize(*grid)).attention for grid in ((2, 6, 6), (3, 8, 8))]
    first, last = (row["attention_tflops"] * 1e12 for row in found["stages"])
    assert first == pytest.approx(everywhere[0]) and 0 < last < everywhere[1]


def test_text_encoders_are_timed(config: Path) -> None:
    found = on_gpu.run_part("text", str(config), on_gpu.Arguments(device="cpu"))["text"]["text_encoder"]
    assert found["seconds"] > 0
    assert found["weights_gib"] * 2**30 == 4 * load_architecture("pocket-wan").num_parameters["text_encoder"]


@pytest.mark.parametrize(
    "name", ["hunyuanvideo-community/HunyuanVideo", "Lightricks/LTX-Video", "zai-org/CogVideoX-2b"]
)
def test_other_families_have_a_decoder_and_small_text_encoders(name: str) -> None:
    architecture = load_architecture(name)
    layout = on_gpu.default_layout(architecture.spec)
    assert (layout.temporal, layout.spatial) == (
        architecture.spec.compression.temporal,
        architecture.spec.compression.spatial,
    )
    for part, network in architecture.parts.items():
        if part.startswith("text_encoder"):
            with torch.device("meta"):
                small = on_gpu.one_layer(network, 500)
            whole = architecture.num_parameters[part]
            assert sum(weight.numel() for weight in small.parameters()) < 0.07 * whole


def test_decoders_are_compared_on_short_and_long_clips(config: Path) -> None:
    found = on_gpu.run_part("decode", str(config), on_gpu.Arguments(device="cpu"))
    assert [(row["decoder"], row["latent_frames"]) for row in found["rows"]] == [
        ("vae", 3),
        ("vae", 21),
        ("tiny", 3),
        ("tiny", 21),
    ]
    assert all(row["seconds"] > 0 for row in found["rows"])


def test_a_training_step_is_compared_with_its_plan(config: Path) -> None:
    found = on_gpu.run_part("training", str(config), on_gpu.Arguments(device="cpu"))
    assert (found["model"], found["kind"], found["batch_size"], found["steps"]) == (
        "pocket-wan",
        "lora",
        2,
        1,
    )
    assert found["planned_tflops"] > 0 and found["planned_gib"] > 0
    assert found["tflops_a_second"] == found["planned_tflops"] / found["step_seconds"]
    assert found["memory"]["base_copies"] == 1


def test_what_is_done_is_kept_and_what_fails_is_a_line(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU offload needs an accelerator."""
    out = tmp_path / "on_gpu.json"
    failing = f"{tmp_path.name}/tiny: model offload"
    names = list(on_gpu.all_parts(config))
    assert names[0] == "doctor" and failing in names and len(names) == 1 + len(on_gpu.KINDS)
    done = {name: {"machine": "a card", "kept": name} for name in names if name != failing}
    out.write_text(json.dumps({"card": "a card", "parts": done}))
    words = ["on_gpu", "--config", str(config), "--out", str(out), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", words)
    assert on_gpu.main() == 1
    kept = json.loads(out.read_text())
    assert kept["card"] == "a card"
    assert (
        kept["parts"].pop(failing)["error"].startswith("ValueError: cpu_offload: got 'model' for device cpu")
    )
    assert kept["parts"] == done
    monkeypatch.setattr("sys.argv", [*words, "--only", "decoding"])
    with pytest.raises(SystemExit, match="the parts are doctor, "):
        on_gpu.main()


def test_the_list_names_configs_that_are_there() -> None:
    root = Path(__file__).parents[2]
    for path in {path for _, path in on_gpu.all_parts(None).values()}:
        assert not path or load_architecture(load_config(root / path).model).parts
