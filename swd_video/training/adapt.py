"""What scale adaptation leaves: a teacher that learned, by flow matching on clips, every grid of a schedule."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers import ModelMixin
from safetensors.torch import save_file
from torch import Tensor

from swd_video.files import whole_folder
from swd_video.models.loading import model_folder
from swd_video.student.student import LORA_FILE_NAME, TRANSFORMER_FOLDER

TEACHER_FOLDER = "teacher"


@dataclass(frozen=True)
class AdaptedTeacher:
    """A teacher that learned the grids of a schedule.

    Attributes:
        base: folder or hub name of the teacher as it was.
    """

    base: str

    def save(self, folder: Path, weights: ModelMixin | Mapping[str, Tensor]) -> None:
        """Write the teacher's diffusers folder with another transformer, or a LoRA file.

        The folder is whole or not there. Its other parts are copies, so that caches of clips and captions still fit.
        """
        with whole_folder(folder) as draft:
            if isinstance(weights, Mapping):
                save_file({name: weight.cpu() for name, weight in weights.items()}, draft / LORA_FILE_NAME)
                return
            for part in model_folder(self.base).iterdir():
                if part.is_dir() and part.name != TRANSFORMER_FOLDER:
                    shutil.copytree(part, draft / part.name)
                elif part.is_file():
                    shutil.copyfile(part, draft / part.name)
            weights.save_pretrained(draft / TRANSFORMER_FOLDER)
