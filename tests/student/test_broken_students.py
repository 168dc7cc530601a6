"""Student folders with something wrong in them: one line that names the file, and never the plain teacher."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from swd_video.cli.main import main
from swd_video.core.schedule import ScaleSchedule
from swd_video.evaluation.overlap import check_overlap
from swd_video.models.loading import VideoSpec, write_video_spec
from swd_video.models.lora import add_lora
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.export import export_student
from swd_video.student.student import LORA_FILE_NAME, Student, load_student

Weights = dict[str, Tensor]


@pytest.fixture
def folder(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> Path:
    """Room for a base model and two students of it, one of either kind."""
    base = Path(shutil.copytree(tiny_wan_folder, tmp_path / "base"))
    write_video_spec(base, VideoSpec(fps=12.0, text_length=20))
    made = Student(str(base), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule), trained_through=())
    made.save(tmp_path / "full", tiny_wan_pipe.transformer)
    add_lora(tiny_wan_pipe.transformer, 4, ["to_q", "ffn.net.0.proj"])
    state = get_peft_model_state_dict(tiny_wan_pipe.transformer)
    made = Student(str(base), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "lora", state)
    return tmp_path


def _refused(read: Callable[[], object], *words: str) -> None:
    with pytest.raises(ValueError) as error:
        read()
    message = str(error.value)
    assert "\n" not in message and len(message) < 500, message
    assert all(word in message for word in words), message


def _renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): weight for name, weight in weights.items()}


def _without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


def _wider(weights: Weights) -> Weights:
    return {
        name: weight.repeat(1, 2) if "lora_A" in name else weight.repeat(2, 1)
        for name, weight in weights.items()
    }


def _spoiled(weights: Weights) -> Weights:
    return {name: weight / 0 for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _renamed("transformer.", ""),
            ("the key 'blocks.0.attn1.to_q.lora_A.weight'", "transformer.LAYER.lora_A"),
        ),
        (_renamed("transformer.", "base_model.model."), ("the key 'base_model.model.blocks.0",)),
        (_renamed(".weight", ".default.weight"), ("lora_A.default.weight' is that of no linear layer",)),
        (
            _renamed("blocks.1.", "blocks.40."),
            ("the key 'transformer.blocks.40.", "of no linear layer of the Wan"),
        ),
        (
            _without("to_q.lora_B"),
            ("lacks 6 weights of a LoRA of WanTransformer3DModel", "attn1.to_q.lora_B.weight"),
        ),
        (_wider, ("has shape (4, 64), in a LoRA of WanTransformer3DModel it has (4, 32)",)),
        (_spoiled, ("lora_A.weight holds values that are no finite numbers",)),
        (lambda _: {}, ("holds no weights",)),
    ],
)
def test_low_rank_additions_that_go_nowhere_are_refused(
    change: Callable[[Weights], Weights], words: tuple[str, ...], folder: Path
) -> None:
    path = folder / "lora" / LORA_FILE_NAME
    save_file({name: weight.contiguous() for name, weight in change(load_file(path)).items()}, path)
    _refused(lambda: load_student(folder / "lora"), str(path), *words)
    for form in ("lora", "merged"):
        _refused(
            lambda form=form: export_student(Student.load(folder / "lora"), folder / "out", form=form),
            str(path),
            *words,
        )
    assert not (folder / "out").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _pickled(path: Path) -> None:
    path.rename(path.with_suffix(".bin"))


def _lacking(path: Path) -> None:
    save_file(_without("proj_out.bias")(load_file(path)), path)


def _strange(path: Path) -> None:
    save_file({**load_file(path), "base_layer.weight": torch.ones(1)}, path)


def _of_another_size(path: Path) -> None:
    save_file({**load_file(path), "proj_out.bias": torch.ones(5)}, path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_cut, ".safetensors: is no whole safetensors file"),
        (_emptied, ".safetensors: is no whole safetensors file"),
        (_pickled, ".bin: is a pickled checkpoint"),
        (_lacking, ": lacks 1 weights of WanTransformer3DModel, the first is proj_out.bias"),
        (_strange, ": 1 weights have no place in WanTransformer3DModel, the first is base_layer.weight"),
        (_of_another_size, ": proj_out.bias has shape (5,), in WanTransformer3DModel it has (16,)"),
        (Path.unlink, "holds no .safetensors file"),
    ],
)
def test_a_whole_transformer_that_is_not_whole_is_refused(
    change: Callable[[Path], None], word: str, folder: Path
) -> None:
    change(next((folder / "full" / "transformer").glob("*.safetensors")))
    _refused(lambda: load_student(folder / "full"), "full/transformer", word)
    _refused(lambda: export_student(Student.load(folder / "full"), folder / "out"), "full/transformer", word)
    assert not (folder / "out").exists()


def test_a_student_whose_training_diverged_is_refused(folder: Path) -> None:
    path = next((folder / "full" / "transformer").glob("*.safetensors"))
    save_file({**load_file(path), "proj_out.bias": torch.full((16,), torch.nan)}, path)
    _refused(
        lambda: load_student(folder / "full"),
        "full/transformer: proj_out.bias holds values that are no finite",
    )


FILES = (
    "full/student.json",
    "full/scheduler/scheduler_config.json",
    "full/transformer/config.json",
    "base/model_index.json",
    "base/scheduler/scheduler_config.json",
    "base/vae/config.json",
    "base/video_spec.json",
)
NEEDED = {"format", "base_model", "kind", "stages", "transformer", "vae", "text_encoder"}
"""Keys without which there is no student."""


@pytest.mark.parametrize("name", FILES)
def test_wrong_kinds_in_a_student_s_json_are_one_line(name: str, folder: Path) -> None:
    path = folder / name
    good = json.loads(path.read_text())
    keys = [
        key
        for key in good
        if key != "_diffusers_version" and (not key.startswith("_") or path.parent != folder)
    ]
    wrong: dict[str, Any] = {key: 7.5 if isinstance(good[key], str) else "word" for key in keys}
    nested = {
        key: [{"word": 1}] if good[key] and isinstance(good[key], list) else {"word": 1} for key in keys
    }
    kinds = [wrong] if name.startswith("base") else [wrong, nested]
    faults = [(key, {**good, key: value}) for kind in kinds for key, value in kind.items()]
    faults += [
        (key, {other: good[other] for other in good if other != key}) for key in sorted(NEEDED & good.keys())
    ]
    for key, fault in faults:
        path.write_text(json.dumps(fault))
        _refused(lambda: load_student(folder / "full"), path.name, {"stages": "schedule"}.get(key, key))
    for text in (json.dumps(good)[:-1], json.dumps([good]), "", "\0")[: 1 if name.startswith("base") else 4]:
        path.write_text(text)
        _refused(lambda: load_student(folder / "full"), str(path.relative_to(folder)).partition("/")[2])
    path.write_text(json.dumps(good))
    load_student(folder / "full")


def test_broken_students_are_wrong_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "script.yaml").write_text(f"model: {folder / 'full'}\nshots:\n  - id: cat\n    prompt: a cat\n")
    render = ["render", str(folder / "script.yaml"), "--out", str(folder / "clips")]
    export = ["export", str(folder / "full"), "--out", str(folder / "export")]
    for name, text, commands, message in (
        ("train.json", '{"steps": "many"}', [export], "train.json: steps: got 'many', expected a number."),
        (
            "train.json",
            '{"stage_losses": 3}',
            [export],
            "train.json: stage_losses: got 3, expected a list of numbers.",
        ),
        (
            "full/student.json",
            '{"format": 1, "kind": ["full"], "base_model": "pocket-wan"}',
            [render, export],
            "full/student.json: kind: got ['full'], expected full or lora.",
        ),
    ):
        (folder / name).write_text(text)
        for command in commands:
            assert main(command) == 2
            assert message in capsys.readouterr().err
        (folder / name).unlink()
    assert not (folder / "clips").exists() and not (folder / "export").exists()
    (folder / "config.yaml").write_text("loss: [")
    with pytest.raises(
        ValueError, match=r"config\.yaml: cannot be read \(.*, and says what trained the student"
    ):
        check_overlap(folder / "full", {})
