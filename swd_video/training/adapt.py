"""Scale adaptation: a teacher learns, by flow matching on clips, to generate on every grid of a schedule."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from swd_video.core.flow import add_noise, velocity_target
from swd_video.core.randomness import SampleDraws
from swd_video.files import whole_folder
from swd_video.models.loading import model_folder
from swd_video.objectives.learners import ClipPair
from swd_video.objectives.networks import Networks
from swd_video.student.student import LORA_FILE_NAME, TRANSFORMER_FOLDER
from swd_video.training.step import MicroBatch, Stepper

TEACHER_FOLDER = "teacher"


@dataclass(frozen=True)
class FlowMatching:
    """Say which way the noise lies in noised clips.

    Attributes:
        sigma_shift: noise levels are even draws `u`, shifted: `s u / (1 + (s - 1) u)`.
        empty_prompts: for so many of the clips the prompt is empty.
        empty_embeds: embedding of the empty prompt.

    Source: Flow Matching for Generative Modeling (arXiv 2210.02747); the shift is that of Stable Diffusion 3
    (arXiv 2403.03206), Eq. 23.
    """

    sigma_shift: float
    empty_prompts: float
    empty_embeds: Float[Tensor, "1 text_length text_dim"]

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Mean squared error of the velocity, on the true clips."""
        x0 = clips.target_x0
        noise, even = draws.normal_like(x0), draws.uniform().to(x0.device)
        sigma = self.sigma_shift * even / (1 + (self.sigma_shift - 1) * even)
        is_empty = (draws.uniform() < self.empty_prompts).to(x0.device).view(-1, 1, 1)
        prompt_embeds = torch.where(is_empty, self.empty_embeds.to(clips.prompt_embeds), clips.prompt_embeds)
        velocity = networks.model.predict_velocity(
            add_noise(x0, noise, sigma), sigma, prompt_embeds, transformer=networks.student_forward
        )
        return (velocity.float() - velocity_target(x0, noise)).square().mean()


class FlowStepper(Stepper):
    """Steps whose objective runs the network itself: a micro-batch is clips on its stage's grid, and nothing more."""

    def predict(self, batch: MicroBatch) -> ClipPair:
        """The true clips, for both."""
        grid, device = self.schedule[batch.stage_index].grid, self.accelerator.device
        stored = self.read(batch, [grid])
        x0 = stored.latents[grid].to(device, torch.float32)
        return ClipPair(x0, x0, stored.prompt_embeds.to(device, torch.float32))


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

        Args:
            folder: where; one that is there is replaced.
            weights: what was trained.
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
