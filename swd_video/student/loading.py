"""Students on disk: writing them, and loading them into a pipeline that samples.

A student folder holds what distillation changed, and the name of the rest:

- `student.json`: `{"format": 1, "base_model": "pocket-wan", "kind": "full" | "lora"}`, `"positions": "rescaled"` where
  temporal positions were rescaled, `"encoders"`, the networks of pixels that its training looked through, and
  `"transformer_file"`, where additions belong to a single file's weights instead of the base model's own;
  `"made_of"`: digests of its teacher, VAE, clips and upsampler, and the settings of its training, where they are known;
- `scheduler/scheduler_config.json`: the stages;
- `transformer/` (kind "full") or `pytorch_lora_weights.safetensors` (kind "lora", diffusers' keys).

Which family a student is of says its base model.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import ModelMixin, WanPipeline
from torch import Tensor

from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler
from swd_video.files import whole_folder, write_json
from swd_video.models.checkpoints import (
    INDEX_NAME,
    SCHEDULER_CONFIG_NAME,
    check_finite,
    check_fit,
    check_kinds,
    empty_network,
    errors_in_one_line,
    find_weights,
    load_network,
    read_json,
    read_shapes,
    require,
)
from swd_video.models.loading import (
    DEFAULT_OPTIONS,
    STUDENT_FILE_NAME,
    LoadOptions,
    VideoSpec,
    adapt,
    load_teacher,
    prepare_pipeline,
    read_model_index,
    read_video_spec,
    resolve_model_path,
    shipped_models,
)
from swd_video.models.lora import check_lora
from swd_video.models.wan import wan_fps
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.stages import POSITIONS
from swd_video.student.wan_pipeline import WanScaleWisePipeline

LORA_FILE_NAME = "pytorch_lora_weights.safetensors"
_FORMAT = 1
_KINDS = ("full", "lora")
_KEY_PREFIX = "transformer."
_TRANSFORMER = "transformer"


@dataclass(frozen=True)
class EncoderRecord:
    """A network of pixels that trained a student, and therefore must not judge it.

    Attributes:
        name: a packaged name, a folder or a hub name.
        fingerprint: of a folder's files, which tells a copy of them; else empty.
    """

    name: str
    fingerprint: str = ""


@dataclass(frozen=True)
class StudentRecord:
    """What `student.json` says.

    Attributes:
        base_model: the teacher: a shipped model, a hub name, or a folder (relative to the student's).
        kind: "full" (a whole transformer) or "lora" (additions to the teacher's).
        positions: "native" or "rescaled": how temporal positions were counted in training.
        encoders: networks of pixels that its training looked through; None where that is not known.
        transformer_file: of kind "lora", a single file that took the place of the teacher's transformer (relative to
            the student's folder); None where there was none.
        made_of: what it follows from: digests of teacher, VAE, clips and upsampler, and settings, as far as known.
    """

    base_model: str
    kind: str
    positions: str = "native"
    encoders: tuple[EncoderRecord, ...] | None = None
    transformer_file: str | None = None
    made_of: Mapping[str, Any] | None = None


def load_student(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: LoadOptions = DEFAULT_OPTIONS,
) -> ScaleWisePipeline:
    """Load a student of any family, ready to sample.

    Args:
        name_or_path: a shipped student ("pocket-wan-swd"), a student folder, or the folder of a pipeline whose
            scheduler has stages.
        device: where to put it; on CUDA the fastest attention that really runs is chosen.
        dtype: precision of all its parts.
        options: how it is fitted into memory and run.

    Raises:
        ValueError: if there is no such student, it cannot be loaded, or an option cannot work here.
    """
    loaded = _load(name_or_path, dtype, options)
    prepare_pipeline(loaded.pipe, device=device, dtype=dtype, options=options)
    return ScaleWisePipeline(
        adapt(loaded.pipe, loaded.spec, name_or_path, options), loaded.scheduler, loaded.positions
    )


def load_pipeline(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: LoadOptions = DEFAULT_OPTIONS,
) -> WanScaleWisePipeline:
    """Load a student of Wan as a diffusers pipeline, ready to sample.

    Args:
        name_or_path: as for `load_student`.
        device: where to put it; on CUDA the fastest attention that really runs is chosen.
        dtype: precision of all its parts.
        options: how it is fitted into memory and run.

    Raises:
        ValueError: if there is no such student, it cannot be loaded or is of another family, or an option cannot work
            here.
    """
    loaded = _load(name_or_path, dtype, options)
    teacher, spec = loaded.pipe, loaded.spec
    if not isinstance(teacher, WanPipeline):
        raise ValueError(
            f"model {str(name_or_path)!r}: is a student of a {type(teacher).__name__}, expected one of a WanPipeline; "
            "load it with load_student."
        )
    pipe = WanScaleWisePipeline(
        **{**teacher.components, "scheduler": loaded.scheduler},
        boundary_ratio=teacher.config.boundary_ratio,
        expand_timesteps=teacher.config.expand_timesteps,
        fps=spec.fps or wan_fps(teacher.config.expand_timesteps),
        text_length=spec.text_length,
        positions=loaded.positions,
    )
    return prepare_pipeline(pipe, device=device, dtype=dtype, options=options)


def is_student(name_or_path: str | Path) -> bool:
    """Whether `load_student` takes a model: a student's folder, or a pipeline with a scale-wise scheduler.

    Raises:
        ValueError: if there is no such model.
    """
    path = resolve_model_path(name_or_path)
    if (Path(path) / STUDENT_FILE_NAME).is_file():
        return True
    index = read_model_index(path)
    return (index.get("scheduler") or [None])[-1] == ScaleWiseFlowMatchScheduler.__name__


def save_student(
    folder: str | Path,
    *,
    base_model: str | Path,
    schedule: ScaleSchedule,
    transformer: ModelMixin | None = None,
    lora_state_dict: dict[str, Tensor] | None = None,
    positions: str = "native",
    encoders: Sequence[EncoderRecord] | None = None,
    transformer_file: str | Path | None = None,
    upsampler: LatentUpsampler | None = None,
    made_of: Mapping[str, Any] | None = None,
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
        encoders: networks of pixels that its training looked through, where that is known.
        transformer_file: the single file whose weights the additions belong to, instead of `base_model`'s own.
        upsampler: what takes its clips from grid to grid; None where that is bicubic resizing.
        made_of: see `StudentRecord`.

    Raises:
        ValueError: unless exactly one of `transformer` and `lora_state_dict` is given, or if `folder` exists
            and is not a student's.
    """
    if (transformer is None) == (lora_state_dict is None):
        raise ValueError("save_student: give exactly one of transformer and lora_state_dict.")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / STUDENT_FILE_NAME).is_file():
        raise ValueError(f"{folder} is not empty and holds no {STUDENT_FILE_NAME}; choose another folder.")
    with whole_folder(folder) as draft:
        scheduler = ScaleWiseFlowMatchScheduler.from_schedule(schedule, upsampler=upsampler)
        scheduler.save_pretrained(draft / "scheduler")
        if transformer is not None:
            transformer.save_pretrained(draft / "transformer")
        elif lora_state_dict is not None:
            layers = {name.removeprefix(_KEY_PREFIX): tensor for name, tensor in lora_state_dict.items()}
            named = {f"{_KEY_PREFIX}{name}": tensor.contiguous() for name, tensor in layers.items()}
            safetensors.torch.save_file(named, draft / LORA_FILE_NAME, metadata={"format": "pt"})
        kind = "full" if transformer is not None else "lora"
        used = None if encoders is None else tuple(encoders)
        file = None if transformer_file is None else os.path.relpath(transformer_file, folder)
        base = recorded_base(base_model, folder)
        write_student_record(draft, StudentRecord(base, kind, positions, used, file, made_of))


def write_student_record(folder: Path, record: StudentRecord) -> None:
    """Write `student.json`."""
    fields: dict[str, Any] = {"format": _FORMAT, "base_model": record.base_model, "kind": record.kind}
    if record.positions != "native":
        fields["positions"] = record.positions
    if record.encoders is not None:
        fields["encoders"] = [asdict(encoder) for encoder in record.encoders]
    if record.transformer_file is not None:
        fields["transformer_file"] = record.transformer_file
    if record.made_of is not None:
        fields["made_of"] = dict(record.made_of)
    write_json(folder / STUDENT_FILE_NAME, fields)


def read_student_record(folder: str | Path) -> StudentRecord:
    """Read and check `student.json`.

    Raises:
        ValueError: if it is not what this version writes.
    """
    path = Path(folder) / STUDENT_FILE_NAME
    fields = read_json(path)
    require(
        fields.get("format") == _FORMAT,
        path,
        "format",
        fields.get("format"),
        f"{_FORMAT}, as this version writes",
    )
    kind, base, file = (fields.get(key) for key in ("kind", "base_model", "transformer_file"))
    require(kind in _KINDS, path, "kind", kind, " or ".join(_KINDS))
    require(isinstance(base, str) and base != "", path, "base_model", base, "a model's name")
    positions = fields.get("positions", "native")
    require(positions in POSITIONS, path, "positions", positions, " or ".join(POSITIONS))
    require(
        file is None or (isinstance(file, str) and kind == "lora"),
        path,
        "transformer_file",
        file,
        "a path, for a LoRA",
    )
    made_of = fields.get("made_of")
    require(
        made_of is None or isinstance(made_of, dict), path, "made_of", made_of, "digests and settings by name"
    )
    encoders = _read_encoders(path, fields.get("encoders"))
    return StudentRecord(str(base), str(kind), positions, encoders, file, made_of)


def _read_encoders(path: Path, listed: Any) -> tuple[EncoderRecord, ...] | None:
    if listed is None:
        return None
    expected = "a list of names and fingerprints"
    require(isinstance(listed, list), path, "encoders", listed, expected)
    for entry in listed:
        known = isinstance(entry, dict) and entry.keys() <= {"name", "fingerprint"} and "name" in entry
        require(
            known and all(isinstance(text, str) for text in entry.values()),
            path,
            "encoders",
            listed,
            expected,
        )
    return tuple(EncoderRecord(**entry) for entry in listed)


def used_transformer_file(folder: str | Path, asked: str | Path | None) -> Path | None:
    """The single file that gives a model's transformer, where one does: the asked one, or a student's own.

    Args:
        folder: of a student or a pipeline, or a hub name.
        asked: `LoadOptions.transformer_file`.

    Raises:
        ValueError: if one is asked for, but the student has a whole transformer of its own.
    """
    if not (Path(folder) / STUDENT_FILE_NAME).is_file():
        return None if asked is None else Path(asked)
    record = read_student_record(folder)
    if asked is not None and record.kind == "full":
        raise ValueError(
            f"load.transformer_file: {asked} would replace all that student {folder} learned; leave it out."
        )
    if asked is not None or record.transformer_file is None:
        return None if asked is None else Path(asked)
    return Path(os.path.normpath(Path(folder) / record.transformer_file))


def base_model_path(folder: str | Path) -> str:
    """The folder or hub name of a student's teacher.

    Raises:
        ValueError: if `student.json` is broken or the teacher is not there.
    """
    base = read_student_record(folder).base_model
    beside = Path(folder) / base
    return resolve_model_path(beside if (beside / INDEX_NAME).is_file() else base)


@dataclass(frozen=True)
class _Loaded:
    """A stock pipeline with the student in it, on the CPU, and what it has no place for."""

    pipe: Any
    scheduler: ScaleWiseFlowMatchScheduler
    spec: VideoSpec
    positions: str


def _load(name: str | Path, dtype: torch.dtype, options: LoadOptions) -> _Loaded:
    path = resolve_model_path(name)
    file = LoadOptions(transformer_file=used_transformer_file(path, options.transformer_file))
    try:
        if (Path(path) / STUDENT_FILE_NAME).is_file():
            return _load_student(Path(path), dtype, file)
        return _load_pipeline_folder(path, name, dtype, file)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model {str(name)!r} cannot be loaded: {reason}") from error


def _load_pipeline_folder(path: str, name: str | Path, dtype: torch.dtype, file: LoadOptions) -> _Loaded:
    index = read_model_index(path)
    if not is_student(path):
        raise ValueError(
            f"model {str(name)!r}: got a {index.get('_class_name')}, expected a scale-wise student; distill one from "
            "it first."
        )
    pipe = load_teacher(path, dtype=dtype, options=file)
    # In the folder's own file, or in the index of a WanScaleWisePipeline.
    spec = read_video_spec(path)
    spec = VideoSpec(
        spec.fps or index.get("fps"), spec.training_size, spec.text_length or index.get("text_length")
    )
    return _Loaded(pipe, pipe.scheduler, spec, index.get("positions", "native"))


def _load_student(folder: Path, dtype: torch.dtype, file: LoadOptions) -> _Loaded:
    record = read_student_record(folder)
    base = base_model_path(folder)
    scheduler = load_scheduler(folder)
    transformer = None
    if record.kind == "full":
        transformer = load_network(check_transformer(folder, base), folder / _TRANSFORMER, dtype)
        check_finite(folder / _TRANSFORMER, transformer.state_dict())
    pipe = load_teacher(base, dtype=dtype, transformer=transformer, options=file)
    if record.kind == "lora":
        check_lora(folder / LORA_FILE_NAME, pipe.transformer)
        with errors_in_one_line(folder / LORA_FILE_NAME):
            pipe.load_lora_weights(str(folder), weight_name=LORA_FILE_NAME)
            pipe.fuse_lora()
            pipe.unload_lora_weights()
    return _Loaded(pipe, scheduler, read_video_spec(base), record.positions)


def check_transformer(folder: Path, base: str) -> Any:
    """The class of a student's own transformer, whose files are looked at but not read.

    Args:
        folder: of the student.
        base: its base model, as `resolve_model_path` gives it.

    Raises:
        ValueError: if it is of another class than the base model's, broken, or its weights are not those of its
            configuration.
    """
    path = folder / _TRANSFORMER
    empty = empty_network(path)
    found, expected = type(empty).__name__, read_model_index(base)[_TRANSFORMER][1]
    if found != expected:
        raise ValueError(
            f"student {folder}: is a {found}, its base model {base} has a {expected}; name its own base model in "
            f"{STUDENT_FILE_NAME}."
        )
    shapes = {name: shape for file in find_weights(path) for name, shape in read_shapes(file).items()}
    check_fit(path, shapes, empty.state_dict(), found)
    return type(empty)


def load_scheduler(folder: Path) -> ScaleWiseFlowMatchScheduler:
    """The scheduler of a student's folder.

    Raises:
        ValueError: if it is missing or broken, or another class's.
    """
    path = folder / "scheduler" / SCHEDULER_CONFIG_NAME
    config, expected = read_json(path), ScaleWiseFlowMatchScheduler.__name__
    require(config.get("_class_name") == expected, path, "_class_name", config.get("_class_name"), expected)
    require(isinstance(config.get("stages"), list), path, "stages", config.get("stages"), "a list of stages")
    check_kinds(path, ScaleWiseFlowMatchScheduler, config)
    with errors_in_one_line(path):
        scheduler: ScaleWiseFlowMatchScheduler = ScaleWiseFlowMatchScheduler.from_pretrained(path.parent)
    return scheduler


def recorded_base(base_model: str | Path, folder: Path) -> str:
    """A teacher's name as `student.json` in `folder` has it: a path relative to it, or a name as it is."""
    name = str(base_model)
    if name in shipped_models() or not Path(name).expanduser().is_dir():
        return name
    return os.path.relpath(Path(name).expanduser(), folder)
