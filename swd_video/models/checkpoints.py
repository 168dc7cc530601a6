"""Looking at a model's files before they are loaded: whole, safe to read, and what they claim to be.

Weights are read from safetensors only. Pickled checkpoints run whatever code is in them when opened, so they are
refused by name and never opened.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

INDEX_NAME = "model_index.json"
WEIGHTS_SUFFIX = ".safetensors"
# What every family has.
_NEEDED = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
PICKLED_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}


def read_pipeline_name(folder: Path) -> str:
    """Which pipeline a model folder holds.

    Raises:
        ValueError: if its `model_index.json` is missing or broken.
    """
    name = read_json(folder / INDEX_NAME).get("_class_name")
    if not isinstance(name, str):
        raise ValueError(
            f"{folder / INDEX_NAME}: got _class_name {name!r}, expected the name of a pipeline; save the model anew."
        )
    return name


def check_parts_on_disk(folder: Path, skip: Collection[str] = ()) -> None:
    """Look at the parts that a model folder's index lists.

    Args:
        folder: of a pipeline.
        skip: parts that will not be loaded from it.

    Raises:
        ValueError: if a part is missing, of another class than the index says, incomplete or pickled.
    """
    index = read_json(folder / INDEX_NAME)
    parts = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    for name in _NEEDED:
        if parts.get(name) is None and name not in skip:
            raise ValueError(
                f"{folder / INDEX_NAME}: lists no {name}, expected all of {', '.join(_NEEDED)}; load or copy the "
                "whole model."
            )
    for name, class_name in parts.items():
        if class_name is not None and name not in skip:
            _check_part(folder / name, str(class_name))


def check_weights_file(path: Path) -> None:
    """Look at one file of weights, without reading the weights.

    Raises:
        ValueError: if it is missing, pickled, cut short, or no safetensors file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: does not exist; give a file that ends in {WEIGHTS_SUFFIX}.")
    if path.suffix in PICKLED_SUFFIXES:
        raise ValueError(
            f"{path}: is a pickled checkpoint, which could run any code when opened and is not; give a "
            f"{WEIGHTS_SUFFIX} file."
        )
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: is no whole safetensors file ({error}); download or copy it again."
        ) from error


def _check_part(folder: Path, class_name: str) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: is missing, {INDEX_NAME} expects a {class_name} there; load or copy the whole model."
        )
    config = folder / "config.json"
    if not config.is_file():
        return  # a scheduler or a tokenizer: no weights
    found = read_json(config).get("_class_name", class_name)
    if found != class_name:
        raise ValueError(
            f"{folder}: holds a {found}, {INDEX_NAME} expects a {class_name}; this is a checkpoint of another family."
        )
    weights = sorted(folder.glob(f"*{WEIGHTS_SUFFIX}"))
    if not weights:
        pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES)
        if pickled:
            check_weights_file(pickled[0])
        raise ValueError(f"{folder}: holds no {WEIGHTS_SUFFIX} file; load or copy the whole model.")
    for path in weights:
        check_weights_file(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a model's folder that holds one JSON object.

    Raises:
        ValueError: if it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); load or copy the whole model.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got {type(content).__name__}, expected an object; save the model anew.")
    return content
