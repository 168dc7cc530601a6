"""What a run leaves in its folder: what it is made of, before it begins, and a teacher, where one was trained."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers import ModelMixin
from safetensors.torch import save_file
from torch import Tensor

from swd_video.config import dump_config
from swd_video.core.upsampler import LatentUpsampler
from swd_video.files import whole_folder, write_json, write_text
from swd_video.models.loading import model_folder
from swd_video.student.student import LORA_FILE_NAME, TRANSFORMER_FOLDER
from swd_video.training.config import DistillConfig
from swd_video.training.loop import SUMMARY_FILE
from swd_video.training.provenance import RECORD_FILE, settings_of
from swd_video.training.upsampler import UPSAMPLER_FILE


def save_teacher(base: str, folder: Path, weights: ModelMixin | Mapping[str, Tensor]) -> None:
    """Write a teacher's diffusers folder with another transformer, or a LoRA file; whole or not at all.

    Its other parts are copies, so that caches of clips and captions still fit.
    """
    with whole_folder(folder, durable=True) as draft:
        if isinstance(weights, Mapping):
            save_file({name: weight.cpu() for name, weight in weights.items()}, draft / LORA_FILE_NAME)
            return
        for part in model_folder(base).iterdir():
            if part.is_dir() and part.name != TRANSFORMER_FOLDER:
                shutil.copytree(part, draft / part.name)
            elif part.is_file():
                shutil.copyfile(part, draft / part.name)
        weights.save_pretrained(draft / TRANSFORMER_FOLDER)


def claim_folder(
    config: DistillConfig,
    folder: Path,
    accelerator: Accelerator,
    config_file: str,
    made_of: dict[str, Any],
    upsampler: LatentUpsampler | None,
) -> dict[str, Any] | None:
    """Write down what the run is made of; None for one that an older version began, of which that is not known."""
    made_of = made_of | {"settings": settings_of(config)}
    known = (folder / RECORD_FILE).is_file() or not (folder / config_file).is_file()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        # What was finished, with another `kept_share` say, is not what the files below ask for.
        (folder / SUMMARY_FILE).unlink(missing_ok=True)
        if known:
            write_json(folder / RECORD_FILE, made_of, durable=True)
        if upsampler is not None:
            upsampler.save(folder / UPSAMPLER_FILE)
        write_text(folder / config_file, dump_config(config), durable=True)
    accelerator.wait_for_everyone()
    return made_of if known else None
