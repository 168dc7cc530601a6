"""Transformers from checkpoints in a single file, in the names of diffusers or of the model's makers."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import Tensor

from swd_video.models.checkpoints import (
    INDEX_NAME,
    cast_network,
    check_fit,
    empty_network,
    errors_in_one_line,
    holds_lora,
    read_index,
    read_shapes,
)


def load_transformer_file(path: Path, folder: Path, dtype: torch.dtype) -> ModelMixin:
    """A single-file checkpoint as the transformer of a pipeline folder, which gives its configuration."""
    if holds_lora(path):
        raise ValueError(
            f"{path}: is a LoRA, expected a whole transformer; fuse it into the model's (docs/distill.md says how)."
        )
    index = read_index(folder / INDEX_NAME)
    if index.get("transformer_2", [None, None])[1] is not None:
        raise ValueError(
            f"{path}: replaces one transformer, but {folder} has two; load it without transformer_file."
        )
    empty = empty_network(folder / "transformer")
    name = type(empty).__name__
    if name not in SINGLE_FILE_LOADABLE_CLASSES:
        raise ValueError(
            f"{path}: diffusers reads no single-file checkpoints of {name}; give a pipeline folder."
        )
    subject = f"{path}: as a checkpoint of the {name} in {folder}, it"
    with errors_in_one_line(subject):
        translated = _translated(path, empty)
    check_fit(path, translated, empty.state_dict(), f"{name} in {folder}")
    with errors_in_one_line(subject):
        transformer: ModelMixin = type(empty).from_single_file(
            str(path), config=str(folder), subfolder="transformer", local_files_only=True
        )
    cast_network(transformer, dtype)
    return transformer


def _translated(path: Path, transformer: Any) -> dict[str, Tensor]:
    """A single file's weights, as names and shapes, as diffusers translates them to those of the transformer."""
    names, own = read_shapes(path), transformer.state_dict().keys()
    if len(names.keys() & own) > len(own) / 2:
        return names  # of diffusers already
    translate = SINGLE_FILE_LOADABLE_CLASSES[type(transformer).__name__]["checkpoint_mapping_fn"]
    translated: dict[str, Tensor] = translate(config=transformer.config, checkpoint=names)
    return translated
