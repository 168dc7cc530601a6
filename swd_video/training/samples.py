"""Sample clips of a student in training, so that one sees early whether it goes well."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from swd_video.core.randomness import keyed_generator
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.video import write_video
from swd_video.training.encoders import moved_to
from swd_video.training.roles import Roles

_CONTACT_COLUMNS = 6


@dataclass
class SampleWriter:
    """Renders the same prompts from the same noise each time it is asked.

    Attributes:
        roles: the student, and the model whose VAE decodes.
        schedule: the stages.
        prompts: one clip each.
        prompt_embeds: of the prompts.
        folder: gets a folder `step_00000100` with an MP4 for each prompt and `contact.png`, one row a prompt.
        seed: of the run.
    """

    roles: Roles
    schedule: ScaleSchedule
    prompts: Sequence[str]
    prompt_embeds: Float[Tensor, "prompts text_length text_dim"]
    folder: Path
    seed: int

    @torch.no_grad()
    def write(self, step: int) -> Path:
        """Sample, decode and write; the folder appears when it is whole.

        Args:
            step: finished steps, for the name.
        """
        final = self.folder / f"step_{step:08d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        clips = [self._sample(index) for index in range(len(self.prompts))]
        for index, (prompt, frames) in enumerate(zip(self.prompts, clips, strict=True)):
            metadata = {"comment": prompt}
            write_video(partial / f"{index:02d}.mp4", frames, self.roles.model.spec.fps, metadata=metadata)
        Image.fromarray(_contact_sheet(clips)).save(partial / "contact.png")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        return final

    def _sample(self, index: int) -> UInt8[np.ndarray, "frames height width 3"]:
        model, prompt_embeds = self.roles.model, self.prompt_embeds[index : index + 1]

        def predict_velocity(noisy_latents: Tensor, sigma: float, stage_index: int) -> Tensor:
            return self.roles.predict_velocity(noisy_latents, sigma, prompt_embeds)

        latents = sample_scalewise(
            predict_velocity,
            self.schedule,
            batch_size=1,
            channels=model.spec.latent_channels,
            generator=keyed_generator(self.seed, "sample", index),
            device=model.device,
        )
        with moved_to(model.device, model.vae):
            pixels = model.decode(latents)[0].float().clamp(-1, 1)
        frames = ((pixels + 1) * 127.5).round().to(torch.uint8)
        return frames.permute(1, 2, 3, 0).cpu().numpy()


def _contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "frames height width 3"]],
) -> UInt8[np.ndarray, "_ _ 3"]:
    rows = []
    for frames in clips:
        picks = np.linspace(0, len(frames) - 1, _CONTACT_COLUMNS).round().astype(int)
        rows.append(np.concatenate(list(frames[picks]), axis=1))
    return np.concatenate(rows, axis=0)
