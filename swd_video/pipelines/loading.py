"""Students on disk: writing them, and loading them into a pipeline that samples.

A student folder holds what distillation changed, and the name of the rest:

- `student.json`: `{"format": 1, "base_model": "pocket-wan", "kind": "full" | "lora"}`, and `"positions": "rescaled"`
  where temporal positions were rescaled;
- `scheduler/scheduler_config.json`: the stages;
- `transformer/` (kind "full") or `pytorch_lora_weights.safetensors` (kind "lora", diffusers' keys).
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, WanPipeline, WanTransformer3DModel
from torch import Tensor

from swd_video.core.schedule import ScaleSchedule
from swd_video.models.loading import (
    STUDENT_FILE_NAME,
    load_teacher,
    prepare_pipeline,
    read_video_spec,
    resolve_model_path,
    shipped_models,
)
from swd_video.models.wan import check_one_transformer, wan_fps
from swd_video.pipelines.wan_t2v import WanScaleWisePipeline
from swd_video.schedulers import ScaleWiseFlowMatchScheduler

LORA_FILE_NAME = "pytorch_lora_weights.safetensors"
_FORMAT = 1
_KINDS = ("full", "lora")
_POSITIONS = ("native", "rescaled")
_KEY_PREFIX = "transformer."


@dataclass(frozen=True)
class StudentRecord:
    """What `student.json` says.

    Attributes:
        base_model: the teacher: a shipped model, a hub name, or a folder (relative to the student's).
        kind: "full" (a whole transformer) or "lora" (additions to the teacher's).
        positions: "native" or "rescaled": how temporal positions were counted in training.
    """

    base_model: str
    kind: str
    positions: str = "native"


def load_pipeline(
    name_or_path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WanScaleWisePipeline:
    """Load a student, ready to sample.

    Args:
        name_or_path: a shipped student ("pocket-wan-swd"), a student folder, or a saved
            `WanScaleWisePipeline` folder.
        device: where to put it; on CUDA the fastest attention that really runs is chosen.
        dtype: precision of all its parts.

    Raises:
        ValueError: if there is no such student, or it cannot be loaded.
    """
    path = resolve_model_path(name_or_path)
    try:
        if (Path(path) / STUDENT_FILE_NAME).is_file():
            pipe = _load_student(Path(path), dtype)
        else:
            pipe = _load_pipeline_folder(path, name_or_path, dtype)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model {str(name_or_path)!r} cannot be loaded: {reason}") from error
    return prepare_pipeline(pipe, device=device, dtype=dtype)


def is_student(name_or_path: str | Path) -> bool:
    """Whether `load_pipeline` takes a model: a student's folder, or a pipeline with a scale-wise scheduler.

    Raises:
        ValueError: if there is no such model.
    """
    path = resolve_model_path(name_or_path)
    if (Path(path) / STUDENT_FILE_NAME).is_file():
        return True
    index = DiffusionPipeline.load_config(path)
    return (index.get("scheduler") or [None])[-1] == ScaleWiseFlowMatchScheduler.__name__


def save_student(
    folder: str | Path,
    *,
    base_model: str | Path,
    schedule: ScaleSchedule,
    transformer: WanTransformer3DModel | None = None,
    lora_state_dict: dict[str, Tensor] | None = None,
    positions: str = "native",
) -> None:
    """Write a student folder, whole or not at all; one that is there is replaced.

    Args:
        folder: where.
        base_model: the teacher, as `load_teacher` takes it; a folder is recorded relative to the student's.
        schedule: the stages it was distilled for.
        transformer: the whole student, or
        lora_state_dict: its low-rank additions under diffusers' keys, with or without the "transformer."
            in front, at scale 1 (alpha = rank).
        positions: "native" or "rescaled": how temporal positions were counted in training.

    Raises:
        ValueError: unless exactly one of `transformer` and `lora_state_dict` is given, or if `folder` exists
            and is not a student's.
    """
    if (transformer is None) == (lora_state_dict is None):
        raise ValueError("save_student: give exactly one of transformer and lora_state_dict.")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / STUDENT_FILE_NAME).is_file():
        raise ValueError(f"{folder} is not empty and holds no {STUDENT_FILE_NAME}; choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's are for the owner alone
        ScaleWiseFlowMatchScheduler.from_schedule(schedule).save_pretrained(draft / "scheduler")
        if transformer is not None:
            transformer.save_pretrained(draft / "transformer")
        elif lora_state_dict is not None:
            layers = {name.removeprefix(_KEY_PREFIX): tensor for name, tensor in lora_state_dict.items()}
            WanPipeline.save_lora_weights(draft, transformer_lora_layers=layers, weight_name=LORA_FILE_NAME)
        kind = "full" if transformer is not None else "lora"
        write_student_record(draft, StudentRecord(recorded_base(base_model, folder), kind, positions))
        replace_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_student_record(folder: Path, record: StudentRecord) -> None:
    """Write `student.json`."""
    fields = {"format": _FORMAT, "base_model": record.base_model, "kind": record.kind}
    if record.positions != "native":
        fields["positions"] = record.positions
    (folder / STUDENT_FILE_NAME).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_student_record(folder: str | Path) -> StudentRecord:
    """Read and check `student.json`.

    Raises:
        ValueError: if it is not what this version writes.
    """
    path = Path(folder) / STUDENT_FILE_NAME
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        got = fields.get("format") if isinstance(fields, dict) else fields
        raise ValueError(f"{path}: got format {got!r}, expected {_FORMAT}; use the version that wrote it.")
    if fields.get("kind") not in _KINDS:
        raise ValueError(f"{path}: got kind {fields.get('kind')!r}, expected one of {', '.join(_KINDS)}.")
    if not isinstance(fields.get("base_model"), str):
        raise ValueError(f"{path}: got base_model {fields.get('base_model')!r}, expected a model's name.")
    positions = fields.get("positions", "native")
    if positions not in _POSITIONS:
        raise ValueError(f"{path}: got positions {positions!r}, expected one of {', '.join(_POSITIONS)}.")
    return StudentRecord(fields["base_model"], fields["kind"], positions)


def base_model_path(folder: str | Path) -> str:
    """The folder or hub name of a student's teacher.

    Raises:
        ValueError: if `student.json` is broken or the teacher is not there.
    """
    base = read_student_record(folder).base_model
    beside = Path(folder) / base
    return resolve_model_path(beside if (beside / "model_index.json").is_file() else base)


def _load_pipeline_folder(path: str, name: str | Path, dtype: torch.dtype) -> WanScaleWisePipeline:
    index = DiffusionPipeline.load_config(path)
    family = index.get("_class_name")
    if not is_student(path):
        raise ValueError(
            f"model {str(name)!r}: got a {family}, expected a scale-wise student; distill one from it first."
        )
    if family == WanScaleWisePipeline.__name__:
        return WanScaleWisePipeline.from_pretrained(path, dtype=dtype)
    # A stock pipeline with our scheduler (`swd-video export`): its index has no place for these.
    spec = read_video_spec(path)
    fps = spec.fps or wan_fps(index.get("expand_timesteps", False))
    return WanScaleWisePipeline.from_pretrained(path, dtype=dtype, fps=fps, text_length=spec.text_length)


def _load_student(folder: Path, dtype: torch.dtype) -> WanScaleWisePipeline:
    record = read_student_record(folder)
    base = base_model_path(folder)
    transformer = None
    if record.kind == "full":
        transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=dtype)
    teacher = load_teacher(base, dtype=dtype, transformer=transformer)
    if not isinstance(teacher, WanPipeline):
        raise ValueError(
            f"student {folder}: its base model {base} is a {type(teacher).__name__}, expected a WanPipeline; sample "
            "other families with swd_video.models.sampling.sample_clips."
        )
    check_one_transformer(teacher)
    spec = read_video_spec(base)
    pipe = WanScaleWisePipeline(
        tokenizer=teacher.tokenizer,
        text_encoder=teacher.text_encoder,
        vae=teacher.vae,
        transformer=teacher.transformer,
        scheduler=ScaleWiseFlowMatchScheduler.from_pretrained(folder / "scheduler"),
        expand_timesteps=teacher.config.expand_timesteps,
        fps=spec.fps or wan_fps(teacher.config.expand_timesteps),
        text_length=spec.text_length,
        positions=record.positions,
    )
    if record.kind == "lora":
        pipe.load_lora_weights(str(folder), weight_name=LORA_FILE_NAME)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipe


def recorded_base(base_model: str | Path, folder: Path) -> str:
    """A teacher's name as `student.json` in `folder` has it: a path relative to it, or a name as it is."""
    name = str(base_model)
    if name in shipped_models() or not Path(name).expanduser().is_dir():
        return name
    return os.path.relpath(Path(name).expanduser(), folder)


def replace_folder(draft: Path, folder: Path) -> None:
    """Move a finished folder to its name, where an older one may lie."""
    if not folder.exists():
        os.replace(draft, folder)
        return
    # A folder in use cannot be replaced in one step: the old one steps aside first.
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, old / "folder")
    os.replace(draft, folder)
    shutil.rmtree(old)
