"""Students for other people's tools: a LoRA file that stock diffusers loads, or a whole pipeline folder."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from huggingface_hub import HfApi, ModelCard, get_token
from safetensors import SafetensorError, safe_open
from torch import Tensor
from yaml import YAMLError

import swd_video
from swd_video.core.schedule import ScaleSchedule
from swd_video.files import whole_folder, write_json, write_text
from swd_video.models.checkpoints import INDEX_NAME, errors_in_one_line, load_network, require
from swd_video.models.loading import (
    HUB_NAME,
    VIDEO_SPEC_NAME,
    empty_transformer,
    model_folder,
    read_model_index,
    shipped_models,
)
from swd_video.models.lora import check_lora, join_lora, lora_metadata
from swd_video.models.registry import adapter_for
from swd_video.plain_text import first_line, sentence
from swd_video.schedulers import ScaleWiseFlowMatchScheduler, check_global
from swd_video.student.card import CARD_NAME, TAG, write_card
from swd_video.student.student import LORA_FILE_NAME, TRANSFORMER_FOLDER, Student
from swd_video.student.student_file import SCHEDULER_FOLDER

SCHEDULE_METADATA_KEY = "swd_video"
"""In the header of an exported LoRA file: JSON with the base model and the stages."""

_SHIPPED_LICENSE = "apache-2.0"  # of the pocket models, as of this package


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: where.
        form: "lora" or "merged".
        base_model: the teacher, as the card names it.
        license: identifier of the licence, where it is known.
        files: size of every file in bytes, by its path in the folder.
    """

    folder: Path
    form: str
    base_model: str
    license: str | None
    files: dict[str, int]


def export_student(
    student: Student,
    out: Path,
    *,
    form: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    repo: str | None = None,
) -> Export:
    """Write a student in a form that other tools read, whole or not at all; an older export is replaced.

    Args:
        student: of a folder.
        out: folder of the export.
        form: "lora", a file of the additions, or "merged", a pipeline folder; default what the student is.
        base_model: hub name of the teacher, where the student names a folder.
        license: identifier of the licence; default that of the base model, where its folder says so.
        repo: hub name under which the card says the export is found.

    Raises:
        ValueError: if it cannot have this form, or `out` holds something else.
    """
    form = form or ("lora" if student.kind == "lora" else "merged")
    _check_form(student, form)
    _check_out(student, out)
    base = exported_base_name(student, base_model, out)
    license = license or _base_license(student)
    card = write_card(student, base, form, license, repo)
    with whole_folder(out) as draft:
        shutil.copytree(student.weights_path.parent / SCHEDULER_FOLDER, draft / SCHEDULER_FOLDER)
        if form == "lora":
            _write_lora(student, draft, base)
            replace(student, base_model=base_model or student.base_model).write_facts(draft, "lora", out)
        else:
            _write_merged(student, draft)
        student.write_decoder(draft)
        forget_origin(draft)
        write_text(draft / CARD_NAME, card)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    sizes = {path.relative_to(out).as_posix(): path.stat().st_size for path in files}
    return Export(out, form, base, license, sizes)


def read_lora_schedule(path: str | Path) -> ScaleSchedule:
    """The stages that an exported LoRA file was distilled for, from its header.

    Raises:
        ValueError: if the file is broken or no export of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(SCHEDULE_METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}; expected an exported LoRA file.") from error
    if text is None:
        raise ValueError(f"{path}: no stages in its metadata; expected a file of `swd-video export`.")
    return ScaleSchedule.from_dict(json.loads(text)["stages"])


def exported_base_name(student: Student, base_model: str | None, out: Path) -> str:
    """A student's teacher as a card in `out` names it: a hub name, a shipped model, or a folder relative to `out`.

    Raises:
        ValueError: if `base_model` is given and no hub name.
    """
    if base_model is None:
        return student.base_name(out)
    if not HUB_NAME.fullmatch(base_model):
        raise ValueError(
            f"--base {base_model}: expected a hub name such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
        )
    return base_model


def check_push(repo: str, base_model: str) -> None:
    """Find out before any work whether a push can be tried at all.

    Raises:
        ValueError: if the name is not one of a repository, nobody is logged in, or the base model is a folder.
    """
    if not HUB_NAME.fullmatch(repo):
        raise ValueError(f"--push {repo}: expected the name of a repository, OWNER/NAME.")
    if not HUB_NAME.fullmatch(base_model) and base_model not in shipped_models():
        raise ValueError(
            f"--push {repo}: the base model is the folder {base_model}, which readers do not have; give its "
            "hub name with --base."
        )
    if get_token() is None:
        raise ValueError(f"--push {repo}: not logged in; run `hf auth login` or set HF_TOKEN.")


def push_folder(folder: Path, repo: str) -> str:
    """Upload an export to a hub repository, which is made where it is missing, and return its address.

    Raises:
        OSError: if the hub cannot be reached or refuses.
    """
    api = HfApi(library_name=TAG, library_version=swd_video.__version__)
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a scale-wise student")
    except Exception as error:  # the client's errors have no base class of their own
        reason = first_line(error)
        raise OSError(
            f"--push {repo}: {sentence(reason)} The export itself is complete: {folder}."
        ) from error
    return str(address)


def forget_origin(folder: Path) -> None:
    """Take out of a model's configs the folders that it was loaded from on this machine."""
    for path in folder.rglob("*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.pop("_name_or_path", None) is not None:
            write_json(path, value)


def _check_form(student: Student, form: str) -> None:
    folder = student.folder
    if student.kind == "pipeline":
        raise ValueError(
            f"student {student.base_model!r}: is a whole pipeline; expected the student/ folder that `swd-video "
            "distill` left, or a shipped student."
        )
    if student.transformer_file is not None:
        raise ValueError(
            f"student {folder}: was trained on the single file {student.transformer_file}, which an export cannot "
            "name; save the base model with that transformer as a pipeline folder, and distill from there."
        )
    if form == "lora" and student.kind != "lora":
        raise ValueError(
            f"--form lora: {folder} was trained with all its weights, whose change has no low rank; take "
            "--form merged, or distil with --train.kind lora."
        )
    if student.positions != "native":
        raise ValueError(
            f"student {folder}: was trained with {student.positions} positions, which stock pipelines do not count; "
            "sample it with swd_video, or distil with positions: native."
        )
    check_global(student.schedule)
    base_class = read_model_index(student.base_path)["_class_name"]
    if not adapter_for(base_class, student.adapter).stock_samples:
        raise ValueError(
            f"student {folder}: students of a {base_class} cannot be exported yet; its folder as it is goes to "
            "`swd-video render` and load_student."
        )


def _check_out(student: Student, out: Path) -> None:
    if out.is_file():
        raise ValueError(f"--out {out}: is a file, expected a folder.")
    if student.folder is not None and out.resolve() == student.folder.resolve():
        raise ValueError(f"--out {out}: is the student itself; choose another folder.")
    if out.is_dir() and any(out.iterdir()) and not _is_export(out):
        raise ValueError(f"--out {out}: is not empty and holds no earlier export; choose another folder.")


def _is_export(folder: Path) -> bool:
    tags = _card_data(folder).get("tags")
    return isinstance(tags, list) and TAG in tags


def _base_license(student: Student) -> str | None:
    if student.base_model in shipped_models():
        return _SHIPPED_LICENSE
    license = _card_data(Path(student.base_path)).get("license")
    return license if isinstance(license, str) else None


def _card_data(folder: Path) -> dict[str, Any]:
    """What the header of a folder's card says; nothing where there is none that can be read."""
    card = folder / CARD_NAME
    try:
        return dict(ModelCard.load(card).data.to_dict()) if card.is_file() else {}
    except (OSError, ValueError, TypeError, YAMLError):
        return {}


def _write_lora(student: Student, draft: Path, base_model: str) -> None:
    tensors = _read_additions(student)
    metadata = {
        "format": "pt",
        LORA_ADAPTER_METADATA_KEY: json.dumps(lora_metadata(tensors), sort_keys=True),
        SCHEDULE_METADATA_KEY: json.dumps({"base_model": base_model, "stages": student.schedule.as_dict()}),
    }
    (draft / LORA_FILE_NAME).write_bytes(_to_safetensors(tensors, metadata))


def _read_additions(student: Student) -> dict[str, Tensor]:
    """The student's additions, which fit its base model, and are added as they are."""
    path = student.weights_path
    tensors = check_lora(path, empty_transformer(student.base_path))
    with errors_in_one_line(path), safe_open(path, framework="pt") as file:
        said = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
        alpha, rank = (said.get(f"{TRANSFORMER_FOLDER}.{key}") for key in ("lora_alpha", "r"))
    require(
        alpha == rank, path, "lora_alpha", alpha, f"the rank, {rank}: a student's additions have strength 1"
    )
    return tensors


def _to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    # The library writes metadata in an order that changes from call to call; files should not.
    data = safetensors.torch.save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _write_merged(student: Student, draft: Path) -> None:
    path = student.base_path
    index, base = read_model_index(path), model_folder(path)
    scheduler = ScaleWiseFlowMatchScheduler
    index[SCHEDULER_FOLDER] = [scheduler.__module__, scheduler.__name__]
    # Copied, not loaded and saved: a text encoder may be larger than the memory.
    for part, entry in index.items():
        if (
            isinstance(entry, list)
            and entry[0] is not None
            and part not in (TRANSFORMER_FOLDER, SCHEDULER_FOLDER)
        ):
            shutil.copytree(base / part, draft / part)
    if (base / VIDEO_SPEC_NAME).is_file():
        shutil.copyfile(base / VIDEO_SPEC_NAME, draft / VIDEO_SPEC_NAME)
    if student.kind == "full":
        student.transformer_class()  # which checks its files
        shutil.copytree(student.weights_path, draft / TRANSFORMER_FOLDER)
    else:
        _fuse(base, _read_additions(student), draft / TRANSFORMER_FOLDER)
    write_json(draft / INDEX_NAME, index)


def _fuse(base: Path, tensors: dict[str, Tensor], target: Path) -> None:
    """In float32, so that nothing of the additions is lost."""
    transformer = load_network(type(empty_transformer(base)), base / TRANSFORMER_FOLDER, torch.float32)
    join_lora(transformer, tensors)
    transformer.save_pretrained(target)
