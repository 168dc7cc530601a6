"""Latents that no clip belongs to, as a student makes them, and what the VAE shows of them."""

import sys
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.grid import LatentSize
from swd_video.core.pixels import frames_from_pixels
from swd_video.core.randomness import keyed_generator
from swd_video.data.texts import choose_prompts
from swd_video.files import hash_file, whole_file
from swd_video.models.base import VideoModel
from swd_video.models.sections import LoadOptions
from swd_video.student.student import load_student
from swd_video.training.decoder_config import ImitateConfig

IMITATED_FILE = "imitated.safetensors"


class Imitated:
    """Pairs of latents and the VAE's pixels in a file, read one by one.

    Attributes:
        count: how many there are.
        digest: SHA-256 of the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._file = safe_open(path, framework="pt")
        self._parts = {name: self._file.get_slice(name) for name in ("latents", "pixels")}
        self.count = int(self._parts["latents"].get_shape()[0])
        self.digest = hash_file(path)

    def latents(self, index: int) -> Float[Tensor, "channels frames height width"]:
        """Normalised, of one."""
        return self._parts["latents"][index].float()

    def pixels(self, index: int) -> UInt8[Tensor, "3 frames height width"]:
        """Of one."""
        return self._parts["pixels"][index]


def imitated_clips(
    section: ImitateConfig, model: VideoModel, grid: LatentSize, seed: int, out: Path
) -> Imitated:
    """What a run learns to imitate, made once in its folder.

    Raises:
        ConfigError: if the student makes other latents than the run's.
    """
    path = out / IMITATED_FILE
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        pairs = _make(section, model, grid, seed)
        with whole_file(path) as draft:
            save_file(pairs, draft)
    return Imitated(path)


@torch.no_grad()
def _make(section: ImitateConfig, model: VideoModel, grid: LatentSize, seed: int) -> dict[str, Tensor]:
    key = "train.imitate"
    prompts = choose_prompts((), section.prompts_file)
    # Latents alone are wanted of it, so the VAE of the run is the only one that shows anything.
    options = LoadOptions(decoder="vae")
    student = load_student(section.student, device=model.device, options=options)
    student.set_progress_bar_config(disable=True)
    latents, pixels = [], []
    for start in range(0, section.count, section.batch_size):
        numbers = range(start, min(start + section.batch_size, section.count))
        made = student(
            [prompts[number % len(prompts)] for number in numbers],
            generator=[keyed_generator(seed, "imitated", number) for number in numbers],
            output_type="latent",
        ).frames
        got, wanted = tuple(made.shape[1:]), (model.spec.latent_channels, *grid.as_tuple())
        if got != wanted:
            raise ConfigError(
                f"{key}.student: makes latents of {got}, expected {wanted}; name another, or change grid."
            )
        latents.append(made.half().cpu())
        pixels.append(frames_from_pixels(model.decode(latents[-1].float().to(model.device))).cpu())
        print(f"{section.student}: {numbers.stop} of {section.count} clips to imitate", file=sys.stderr)
    return {"latents": torch.cat(latents).contiguous(), "pixels": torch.cat(pixels).contiguous()}
