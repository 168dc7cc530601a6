"""Finding models by name or folder and loading them.

A model is an ordinary diffusers pipeline folder. What such a folder has no place for stands beside its
`model_index.json` in an optional `video_spec.json`: `{"fps": 12, "training_size": "33x128x128",
"text_length": 32}`, every key optional. Which family it is of says its `model_index.json`.

A `name_or_path` is what `resolve_model_path` takes. A model that is not there, cannot be downloaded or is broken is a
`ValueError` of one line.
"""

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

import swd_video
from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import PixelSize
from swd_video.files import expand_home, write_json
from swd_video.models.attention import set_attention
from swd_video.models.base import VideoModel
from swd_video.models.checkpoints import (
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_SUFFIX,
    check_kinds,
    empty_network,
    errors_in_one_line,
    holds_lora,
    load_networks,
    read_index,
    read_json,
    read_pipeline_name,
    require,
)
from swd_video.models.registry import adapter_for, pipeline_class_for
from swd_video.models.sections import LoadOptions as LoadOptions
from swd_video.models.single_file import load_transformer_file
from swd_video.plain_text import first_line

ASSETS = Path(swd_video.__file__).parent / "assets"
ARCHITECTURES = Path(swd_video.__file__).parent / "models" / "published"
"""Config files of published models, by their hub names, in the layout of a diffusers folder."""
VIDEO_SPEC_NAME = "video_spec.json"
STUDENT_FILE_NAME = "student.json"
DECODER_FILE_NAME = "decoder.safetensors"
"""Of a student's folder, the decoder that it carries."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_TIMEOUT_SECONDS = 10.0
_TRANSFORMERS = ("transformer", "transformer_2")


DEFAULT_OPTIONS = LoadOptions()


@dataclass(frozen=True)
class VideoSpec:
    """What `video_spec.json` says about a model.

    Attributes:
        fps: frames per second of the clips the model was trained on, where it is not the family's.
        training_size: size of those clips, where known.
        text_length: tokens of a prompt, where it is not the family's.
    """

    fps: float | None = None
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
    path = expand_home(name)
    if _is_model_folder(path):
        return str(path)
    if not path.exists() and HUB_NAME.fullmatch(name):
        return name
    if (lora := _lora_in(path)) is not None:
        raise ValueError(
            f"model {name!r}: {lora} is a LoRA, expected a whole model; name the model that it belongs to, and give "
            "the transformer that it is fused into as transformer_file (docs/distill.md says how)."
        )
    if path.is_file() and path.suffix == WEIGHTS_SUFFIX:
        raise ValueError(
            f"model {name!r}: is a single file of weights; name the pipeline folder or hub model it belongs to, "
            "and give the file as transformer_file."
        )
    missing = "has no model_index.json or student.json" if path.is_dir() else "does not exist"
    if inside := [str(path / part) for part in ("student", "teacher") if _is_model_folder(path / part)]:
        raise ValueError(f"model {name!r}: is the folder of a run; give {inside[0]}.")
    shipped = ", ".join(shipped_models()) or "none"
    raise ValueError(
        f"model {name!r}: {missing}; give a shipped model ({shipped}), a pipeline or student folder, or a "
        "hub name such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
    )


def read_model_index(name_or_path: str | Path) -> dict[str, Any]:
    """What a pipeline's `model_index.json` says."""
    return read_index(_file_of(name_or_path, INDEX_NAME))


def _file_of(name_or_path: str | Path, file: str) -> Path:
    path = resolve_model_path(name_or_path)
    if Path(path).is_dir():
        return Path(path) / file
    return _download(path, lambda: hf_hub_download(path, file))


def model_folder(name_or_path: str | Path) -> Path:
    """The folder of a pipeline; from the hub where the name is one of the hub's."""
    path = resolve_model_path(name_or_path)
    if Path(path).is_dir():
        return Path(path)
    return _download(path, lambda: DiffusionPipeline.download(path, use_safetensors=True))


def folder_here(name_or_path: str | Path) -> Path | None:
    """The folder of a pipeline on this machine; None for one of the hub that was never loaded."""
    path = resolve_model_path(name_or_path)
    if Path(path).is_dir():
        return Path(path)
    index = try_to_load_from_cache(path, INDEX_NAME)
    return Path(index).parent if isinstance(index, str) else None


def _download(name: str, fetch: Callable[[], str | Path]) -> Path:
    try:
        # For a model that was never loaded, once: downloads ask again and again, for half a minute.
        if not isinstance(try_to_load_from_cache(name, INDEX_NAME), str):
            model_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except Exception as error:  # the client's errors have no base class of their own
        raise ValueError(
            f"model {name!r}: is no folder here, and the hub does not give it ({first_line(error)}); check the name "
            f"and the connection, or give a shipped model ({', '.join(shipped_models()) or 'none'}) or a folder."
        ) from error
    with errors_in_one_line(f"model {name!r}"):
        return Path(fetch())


def read_video_spec(folder: str | Path) -> VideoSpec:
    """Read a model folder's `video_spec.json`; where there is none, the training size of a published model is known.

    Args:
        folder: of a model, or a hub name. A folder is that of a published model where its transformer's configuration
            is the same.
    """
    path = _video_spec_file(folder)
    if path is None:
        published = _published_folder(folder)
        # Its size alone: what else it says is what the family's adapter knows.
        size = None if published is None else read_video_spec(published).training_size
        return VideoSpec(training_size=size)
    fields = read_json(path)
    unknown = sorted(set(fields) - {"fps", "training_size", "text_length"})
    require(not unknown, path, "keys", unknown, "only fps, training_size and text_length")
    fps, size, text_length = (fields.get(key) for key in ("fps", "training_size", "text_length"))
    number = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < math.inf
    require(fps is None or number, path, "fps", fps, "a number of frames per second")
    whole = isinstance(text_length, int) and not isinstance(text_length, bool) and text_length > 0
    require(text_length is None or whole, path, "text_length", text_length, "a number of tokens")
    try:
        training_size = None if size is None else PixelSize.parse(str(size))
    except ValueError as error:
        raise ValueError(f"{path}: training_size: {error}") from None
    return VideoSpec(None if fps is None else float(fps), training_size, text_length)


def _video_spec_file(folder: str | Path) -> Path | None:
    path = Path(folder) / VIDEO_SPEC_NAME
    if path.is_file():
        return path
    # Asked for once the model is here, so that nobody waits for a name that is none of the hub's.
    name = str(folder)
    if not HUB_NAME.fullmatch(name) or not isinstance(try_to_load_from_cache(name, INDEX_NAME), str):
        return None
    try:
        return Path(hf_hub_download(name, VIDEO_SPEC_NAME))
    except (EntryNotFoundError, OSError):  # it has none, or the hub cannot be asked
        return None


def _published_folder(folder: str | Path) -> Path | None:
    """Where the config files of the same published model lie."""
    known = _published_configs()
    named = ARCHITECTURES / folder
    if named in known:
        return named
    config = _transformer_config(Path(folder))
    return next((one for one, said in known.items() if config and said.items() <= config.items()), None)


@cache
def _published_configs() -> dict[Path, dict[str, str]]:
    folders = sorted(path.parent for path in ARCHITECTURES.rglob(VIDEO_SPEC_NAME))
    return {folder: _transformer_config(folder) for folder in folders}


def _transformer_config(folder: Path) -> dict[str, str]:
    """What a transformer's config file says, as JSON text by key; empty where there is none that can be read."""
    try:
        config: dict[str, Any] = json.loads(
            (folder / "transformer" / "config.json").read_text(encoding="utf-8")
        )
        return {key: json.dumps(value) for key, value in config.items() if key != "_diffusers_version"}
    except (OSError, ValueError, AttributeError):
        return {}


def write_video_spec(folder: str | Path, spec: VideoSpec) -> None:
    """Write `video_spec.json` into a model folder."""
    fields: dict[str, Any] = {} if spec.fps is None else {"fps": spec.fps}
    if spec.training_size is not None:
        fields["training_size"] = str(spec.training_size)
    if spec.text_length is not None:
        fields["text_length"] = spec.text_length
    write_json(Path(folder) / VIDEO_SPEC_NAME, fields)


def load_pipeline(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    transformer: ModelMixin | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
) -> Any:
    """Load a text-to-video teacher as diffusers' own pipeline, in evaluation mode.

    Returns:
        The pipeline of diffusers that `model_index.json` names.

    Raises:
        ValueError: if there is no such model, it cannot be loaded, or its family is not supported.
    """
    path = resolve_model_path(name_or_path)
    if (Path(path) / STUDENT_FILE_NAME).is_file():
        raise ValueError(
            f"model {str(name_or_path)!r} is a distilled student, expected a teacher; give its base model."
        )
    folder = model_folder(path)
    adapter = adapter_of(folder, options)
    pipeline_class = pipeline_class_for(read_pipeline_name(folder), adapter)
    replaced = {} if transformer is None else {"transformer": transformer}
    if options.transformer_file is not None:
        replaced = {"transformer": load_transformer_file(options.transformer_file, folder, dtype)}
    check_kinds(folder / INDEX_NAME, pipeline_class, read_index(folder / INDEX_NAME))
    networks = load_networks(folder, dtype, pipeline_class, skip=replaced)
    with errors_in_one_line(f"model {str(name_or_path)!r}"):
        pipe = pipeline_class.from_pretrained(folder, dtype=dtype, **networks, **replaced)
    return prepare_pipeline(pipe, adapter, device=device, dtype=dtype, options=options)


def adapter_of(name_or_path: str | Path, options: LoadOptions) -> type[VideoModel]:
    """The adapter of a model: what its `model_index.json` calls the pipeline decides, unless the options name one.

    Raises:
        ValueError: if there is none, or what is named is none.
    """
    try:
        pipeline_name = read_pipeline_name(_file_of(name_or_path, INDEX_NAME).parent)
        return adapter_for(pipeline_name, options.adapter)
    except ValueError as error:
        raise ValueError(f"model {str(name_or_path)!r}: {error}") from None


def prepare_pipeline(
    pipe: Any,
    adapter: type[VideoModel],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: LoadOptions,
) -> Any:
    """Put a loaded pipeline on its device, in evaluation mode, in the form that the options ask for."""
    for key, value in options.settings.items():
        if key not in adapter.settings:
            raise ValueError(
                f"{key}: got {value:g}, but models of family {adapter.family} take none; leave it out."
            )
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    transformers = [part for name in _TRANSFORMERS if (part := getattr(pipe, name, None)) is not None]
    if options.vae_tiling:
        pipe.vae.enable_tiling()
    if options.vae_slicing:
        pipe.vae.enable_slicing()
    if options.float8_weights:
        for transformer in transformers:
            transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=dtype)
    _place(pipe, torch.device(device), options.cpu_offload)
    for transformer in transformers:
        set_attention(transformer, options.attention, device=device, dtype=dtype, mask=adapter.attention_mask)
    return pipe


def load_teacher(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    options: LoadOptions = DEFAULT_OPTIONS,
) -> VideoModel:
    """Load a model for training, encoding and sampling, behind the interface that all families share.

    Raises:
        ValueError: if there is no such model, it cannot be loaded, or its family is not supported.
    """
    pipe = load_pipeline(name_or_path, device=device, dtype=dtype, options=options)
    return adapt(pipe, name_or_path, name_or_path, options)


def adapt(
    pipe: Any,
    base: str | Path,
    name: str | Path,
    options: LoadOptions = DEFAULT_OPTIONS,
    decoder: StreamingDecoder | None = None,
) -> VideoModel:
    """Put a loaded pipeline behind the interface that all families share.

    Args:
        pipe: what was loaded.
        base: whose adapter it gets, and whose folder says what the pipeline does not.
        name: of the model, for errors.
        options: of these what only some families take, and what clips are shown through.
        decoder: what clips are shown through where the options do not say.
    """
    adapter, spec = adapter_of(base, options), read_video_spec(resolve_model_path(base))
    try:
        model = adapter.from_pipeline(
            pipe,
            fps=spec.fps,
            training_size=spec.training_size,
            text_length=spec.text_length,
            **options.settings,
        )
    except ValueError as error:
        raise ValueError(f"model {str(name)!r}: {error}") from error
    if isinstance(options.decoder, Path):
        # Here, as it hashes models, which are found in this module.
        from swd_video.models.decoding import load_decoder

        decoder = load_decoder(options.decoder, model, base)
    if decoder is not None and options.decoder != "vae":
        # A copy, as a student keeps its own as it was read.
        model.decoder = copy.deepcopy(decoder).to(model.device, model.vae.dtype)
    return model


def _place(pipe: Any, device: torch.device, cpu_offload: str | None) -> None:
    if cpu_offload is None:
        pipe.to(device)
        return
    if device.type == "cpu":
        raise ValueError(
            f"cpu_offload: got {cpu_offload!r} for device cpu, expected an accelerator such as cuda; leave it out."
        )
    if cpu_offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)


def empty_transformer(name_or_path: str | Path) -> Any:
    """The transformer of a pipeline as its configuration says, with names and shapes but no weights."""
    return empty_network(_file_of(name_or_path, f"transformer/{CONFIG_NAME}").parent)


def _lora_in(path: Path) -> Path | None:
    """The file of low-rank additions that this is, or that lies in this folder or run, if there is one."""
    files = [path, *sorted(path.glob(f"*{WEIGHTS_SUFFIX}")), *sorted(path.glob(f"teacher/*{WEIGHTS_SUFFIX}"))]
    weights = (file for file in files if file.suffix == WEIGHTS_SUFFIX and file.is_file())
    return next((file for file in weights if holds_lora(file)), None)


def _is_model_folder(path: Path) -> bool:
    return (path / INDEX_NAME).is_file() or (path / STUDENT_FILE_NAME).is_file()
