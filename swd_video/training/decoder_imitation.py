"""Latents that no clip belongs to, as a student makes them, and what the VAE shows of them."""

import json
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.grid import LatentSize
from swd_video.core.pixels import frames_from_pixels
from swd_video.core.randomness import keyed_generator
from swd_video.data.texts import choose_prompts
from swd_video.files import remove_leftovers, whole_file
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.sections import LoadOptions
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import Student
from swd_video.training.decoder_config import ImitateConfig

IMITATED_FOLDER = "imitated"
_RECIPE = "recipe"


class Imitated:
    """Pairs of latents and the VAE's pixels in files, read one by one.

    Attributes:
        count: how many there are.
        digest: a hash of the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files, in the order of their clips."""
        self._files = [safe_open(path, framework="pt") for path in paths]
        self._ends = [0]
        for file in self._files:
            self._ends.append(self._ends[-1] + file.get_slice("latents").get_shape()[0])
        self.count = self._ends[-1]
        self.digest = fingerprint_folders([], paths)

    def latents(self, index: int) -> Float[Tensor, "channels frames height width"]:
        """Normalised, of one."""
        return self._one("latents", index).float()

    def pixels(self, index: int) -> UInt8[Tensor, "3 frames height width"]:
        """Of one."""
        return self._one("pixels", index)

    def _one(self, name: str, index: int) -> Tensor:
        number = bisect_right(self._ends, index) - 1
        one: Tensor = self._files[number].get_slice(name)[index - self._ends[number]]
        return one


@torch.no_grad()
def imitated_clips(
    section: ImitateConfig,
    model: VideoModel,
    grid: LatentSize,
    seed: int,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Imitated:
    """What a run learns to imitate, made once in its folder, a file for each batch; those that are there stay.

    Args:
        section: which student makes how many, of which prompts.
        model: whose VAE shows them.
        grid: of the run.
        seed: of the run.
        out: its folder.
        device: where the student runs.
        dtype: of its weights.

    Raises:
        ConfigError: if the student makes other latents than the run's.
    """
    prompts = choose_prompts((), section.prompts_file)
    student = Student.load(section.student)
    recipe = {
        "student": student.fingerprint(),
        "prompts": prompts,
        "grid": str(grid),
        "seed": seed,
        "dtype": str(dtype),
    }
    folder, pipe = out / IMITATED_FOLDER, None
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    paths = []
    for start in range(0, section.count, section.batch_size):
        numbers = range(start, min(start + section.batch_size, section.count))
        paths.append(path := folder / f"{start:06d}.safetensors")
        wanted = json.dumps(recipe | {"clips": [numbers.start, numbers.stop]}, sort_keys=True)
        if _recipe_of(path) == wanted:
            continue
        if pipe is None:
            # Latents alone are wanted of it, so the VAE of the run is the only one that shows anything.
            pipe = student.pipeline(device=device, dtype=dtype, options=LoadOptions(decoder="vae"))
            pipe.set_progress_bar_config(disable=True)
        pair = _make(pipe, model, [prompts[number % len(prompts)] for number in numbers], grid, seed, numbers)
        with whole_file(path) as draft:
            save_file(pair, draft, {_RECIPE: wanted})
        print(f"{section.student}: {numbers.stop} of {section.count} clips to imitate", file=sys.stderr)
    for other in set(folder.iterdir()) - set(paths):
        other.unlink()  # of a start that failed, at another config
    return Imitated(paths)


def _recipe_of(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_RECIPE)
    except (OSError, SafetensorError):  # none, or damaged
        return None


def _make(
    pipe: ScaleWisePipeline,
    model: VideoModel,
    prompts: list[str],
    grid: LatentSize,
    seed: int,
    numbers: range,
) -> dict[str, Tensor]:
    generators = [keyed_generator(seed, "imitated", number) for number in numbers]
    made: Any = pipe(prompts, generator=generators, output_type="latent").frames
    got, wanted = tuple(made.shape[1:]), (model.spec.latent_channels, *grid.as_tuple())
    if got != wanted:
        raise ConfigError(
            f"train.imitate.student: makes latents of {got}, expected {wanted}; name another, or change grid."
        )
    latents = made.half().cpu().contiguous()
    # One after another, as a VAE may have too little memory for several.
    pixels = [frames_from_pixels(model.decode(one.float())).cpu() for one in latents.split(1)]
    return {"latents": latents, "pixels": torch.cat(pixels).contiguous()}
