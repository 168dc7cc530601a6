"""Finding models by name or folder and loading them.

A model is an ordinary diffusers pipeline folder. What such a folder has no place for stands beside its
`model_index.json` in an optional `video_spec.json`: `{"fps": 12, "training_size": "33x128x128",
"text_length": 32}`, every key optional.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, WanPipeline, WanTransformer3DModel

import swd_video
from swd_video.core.grid import PixelSize
from swd_video.models.attention import apply_attention_backend, choose_attention_backend
from swd_video.models.base import VideoModel
from swd_video.models.wan import WAN_FPS, WanModel, check_one_transformer

ASSETS = Path(swd_video.__file__).parent / "assets"
VIDEO_SPEC_NAME = "video_spec.json"
STUDENT_FILE_NAME = "student.json"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WAN_PIPELINES = ("WanPipeline", "WanScaleWisePipeline")


@dataclass(frozen=True)
class VideoSpec:
    """What `video_spec.json` says about a model.

    Attributes:
        fps: frames per second of the clips the model was trained on.
        training_size: size of those clips, where known.
        text_length: tokens of a prompt, where it is not the tokenizer's limit.
    """

    fps: float = WAN_FPS
    training_size: PixelSize | None = None
    text_length: int | None = None


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    if not ASSETS.is_dir():
        return []
    return sorted(folder.name for folder in ASSETS.iterdir() if _is_model_folder(folder))


def resolve_model_path(name_or_path: str | Path) -> str:
    """The folder, or the hub name, that a model's name stands for.

    Args:
        name_or_path: a shipped model ("pocket-wan"), a pipeline or student folder, or a hub name
            ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers").

    Raises:
        ValueError: if it is none of these.
    """
    name = str(name_or_path)
    if Path(name).name == name and _is_model_folder(ASSETS / name):
        return str(ASSETS / name)
    path = Path(name).expanduser()
    if _is_model_folder(path):
        return str(path)
    if not path.exists() and HUB_NAME.fullmatch(name):
        return name
    missing = "has no model_index.json or student.json" if path.is_dir() else "does not exist"
    shipped = ", ".join(shipped_models()) or "none"
    raise ValueError(
        f"model {name!r}: {missing}; give a shipped model ({shipped}), a pipeline or student folder, or a "
        "hub name such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
    )


def read_video_spec(folder: str | Path) -> VideoSpec:
    """Read a model folder's `video_spec.json`; defaults where there is none.

    Raises:
        ValueError: if the file has a key or a value it should not have.
    """
    path = Path(folder) / VIDEO_SPEC_NAME
    if not path.is_file():
        return VideoSpec()
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(fields) - {"fps", "training_size", "text_length"})
        if unknown:
            raise ValueError(
                f"got {', '.join(map(str, unknown))}, expected only fps, training_size and text_length."
            )
        size, text_length = fields.get("training_size"), fields.get("text_length")
        return VideoSpec(
            fps=float(fields.get("fps", WAN_FPS)),
            training_size=None if size is None else PixelSize.parse(size),
            text_length=None if text_length is None else int(text_length),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_video_spec(folder: str | Path, spec: VideoSpec) -> None:
    """Write `video_spec.json` into a model folder."""
    fields: dict[str, Any] = {"fps": spec.fps}
    if spec.training_size is not None:
        fields["training_size"] = str(spec.training_size)
    if spec.text_length is not None:
        fields["text_length"] = spec.text_length
    path = Path(folder) / VIDEO_SPEC_NAME
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def load_teacher(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    transformer: WanTransformer3DModel | None = None,
) -> WanPipeline:
    """Load a text-to-video teacher as diffusers' own pipeline, in evaluation mode.

    Args:
        name_or_path: see `resolve_model_path`.
        device: where to put it; on CUDA the fastest attention that really runs is chosen.
        dtype: precision of all its parts.
        transformer: use this one instead of loading the model's own.

    Raises:
        ValueError: if there is no such model, it cannot be loaded, or its family is not supported.
    """
    path = resolve_model_path(name_or_path)
    if (Path(path) / STUDENT_FILE_NAME).is_file():
        raise ValueError(
            f"model {str(name_or_path)!r} is a distilled student, expected a teacher; give its base model."
        )
    try:
        family = DiffusionPipeline.load_config(path).get("_class_name")
        if family not in _WAN_PIPELINES:
            raise ValueError(
                f"model {str(name_or_path)!r}: got a {family}, expected one of {', '.join(_WAN_PIPELINES)}."
            )
        replaced = {} if transformer is None else {"transformer": transformer}
        pipe = WanPipeline.from_pretrained(path, dtype=dtype, **replaced)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model {str(name_or_path)!r} cannot be loaded: {reason}") from error
    check_one_transformer(pipe)
    return prepare_pipeline(pipe, device=device, dtype=dtype)


def prepare_pipeline(pipe: Any, *, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Put a loaded pipeline on its device, in evaluation mode, with the attention that runs best there."""
    for name in ("transformer", "text_encoder", "vae"):
        getattr(pipe, name).eval()
    pipe.to(device)
    backend = choose_attention_backend(device, dtype)
    if backend != "native":
        apply_attention_backend(pipe.transformer, backend)
    return pipe


def load_model(
    name_or_path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> VideoModel:
    """Load a model for training and encoding, behind the interface of its family.

    Args:
        name_or_path: see `resolve_model_path`.
        dtype: precision of all its parts.
        device: where to put it.

    Raises:
        ValueError: if there is no such model, it cannot be loaded, or its family is not supported.
    """
    pipe = load_teacher(name_or_path, device=device, dtype=dtype)
    spec = read_video_spec(resolve_model_path(name_or_path))
    return WanModel.from_pipeline(
        pipe, fps=spec.fps, training_size=spec.training_size, text_length=spec.text_length
    )


def _is_model_folder(path: Path) -> bool:
    return (path / "model_index.json").is_file() or (path / STUDENT_FILE_NAME).is_file()
