"""Sample clips of a student in training, so that one sees early whether it goes well."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from swd_video.core.pixels import frames_from_pixels
from swd_video.core.randomness import keyed_generator
from swd_video.core.resize import Upsample
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.video import write_video
from swd_video.files import whole_folder, write_json
from swd_video.objectives.networks import Networks
from swd_video.training.collapse import ClipsByPrompt, measure_clips, shares_of
from swd_video.training.idle_parts import moved_to
from swd_video.training.reference import Reference

_CONTACT_COLUMNS = 6
MEASURES_FILE, TEACHER_FOLDER = "measures.json", "teacher"


@dataclass
class SampleWriter:
    """Renders the same prompts from the same noise each time it is asked.

    Attributes:
        networks: the student, and the model whose VAE decodes.
        schedule: the stages.
        prompts: what to show.
        prompt_embeds: of the prompts.
        folder: gets a folder `step_00000100` with an MP4 for each sample of each prompt, `measures.json`, and
            `contact.png`, one row a prompt; and a folder `teacher` with its clips, where these are the reference.
        seed: of the run.
        reference: what the clips are held against.
        upsample: takes clean latents from a stage's grid to the next.
        samples_per_prompt: clips of each prompt.
    """

    networks: Networks
    schedule: ScaleSchedule
    prompts: Sequence[str]
    prompt_embeds: Float[Tensor, "prompts text_length text_dim"]
    folder: Path
    seed: int
    reference: Reference
    upsample: Upsample
    samples_per_prompt: int = 1

    @cached_property
    def reference_clips(self) -> ClipsByPrompt:
        """The reference's clips, decoded once."""
        return [self._decode(latents) for latents in self.reference.latents()]

    @cached_property
    def reference_measures(self) -> dict[str, float]:
        """What `measure_clips` says of them."""
        return measure_clips(self.reference_clips)

    @torch.no_grad()
    def sample(self) -> ClipsByPrompt:
        """The student's clips; all processes call it together."""
        return [self._decode(self._sample(index)) for index in range(len(self.prompts))]

    def write(self, step: int, clips: ClipsByPrompt) -> tuple[dict[str, float], dict[str, float]]:
        """Write what `sample` gave, measure it, and say how it compares; the folder appears when it is whole.

        Args:
            step: finished steps, for the name.
            clips: from `sample`.

        Returns:
            (measures by name, the same as shares of the reference's).
        """
        final = self.folder / f"step_{step:08d}"
        beside = self.reference_clips if self.reference.by_prompt else None
        measured = measure_clips(clips)
        shares = shares_of(measured, self.reference_measures)
        self._write_folder(final, clips, beside, with_shares(measured, shares))
        if beside is not None and not (self.folder / TEACHER_FOLDER / MEASURES_FILE).is_file():
            self._write_folder(self.folder / TEACHER_FOLDER, beside, None, self.reference_measures)
        return measured, shares

    def side_by_side(self, clips: ClipsByPrompt) -> list[UInt8[np.ndarray, "frames height width 3"]]:
        """The first sample of each prompt, with the teacher's on its right where that is the reference."""
        if not self.reference.by_prompt:
            return [samples[0] for samples in clips]
        pairs = zip(clips, self.reference_clips, strict=True)
        return [np.concatenate([own[0], other[0]], axis=2) for own, other in pairs]

    def _write_folder(
        self, final: Path, clips: ClipsByPrompt, beside: ClipsByPrompt | None, values: dict[str, float]
    ) -> None:
        with whole_folder(final) as draft:
            for index, (prompt, samples) in enumerate(zip(self.prompts, clips, strict=True)):
                for number, frames in enumerate(samples):
                    name = f"{index:02d}-{number}.mp4" if len(samples) > 1 else f"{index:02d}.mp4"
                    write_video(
                        draft / name, frames, self.networks.model.spec.fps, metadata={"comment": prompt}
                    )
            rows = [samples[0] for samples in clips]
            if beside is not None:
                rows = [row for own, other in zip(clips, beside, strict=True) for row in (own[0], other[0])]
            Image.fromarray(_contact_sheet(rows)).save(draft / "contact.png")
            write_json(draft / MEASURES_FILE, values)

    def _sample(self, index: int) -> Float[Tensor, "samples channels frames height width"]:
        model, count = self.networks.model, self.samples_per_prompt
        prompt_embeds = self.prompt_embeds[index : index + 1].expand(count, -1, -1)

        def predict_velocity(noisy_latents: Tensor, sigma: float, stage_index: int) -> Tensor:
            return self.networks.predict_velocity(noisy_latents, sigma, prompt_embeds)

        return sample_scalewise(
            predict_velocity,
            self.schedule,
            batch_size=count,
            channels=model.spec.latent_channels,
            generator=[keyed_generator(self.seed, "sample", index, number) for number in range(count)],
            device=model.device,
            upsample=self.upsample,
        )

    @torch.no_grad()
    def _decode(
        self, latents: Float[Tensor, "samples channels _ _ _"]
    ) -> list[UInt8[np.ndarray, "frames height width 3"]]:
        model = self.networks.model
        clips = []
        with moved_to(model.device, model.vae):
            for one in latents.to(model.device).split(1):
                frames = frames_from_pixels(model.decode(one)[0])
                clips.append(frames.permute(1, 2, 3, 0).cpu().numpy())
        return clips


def with_shares(measured: dict[str, float], shares: dict[str, float]) -> dict[str, float]:
    """Both under one set of names, for files and logs: a share is called `..._share`."""
    return measured | {f"{name}_share": share for name, share in shares.items()}


def _contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "frames height width 3"]],
) -> UInt8[np.ndarray, "_ _ 3"]:
    rows = []
    for frames in clips:
        picks = np.linspace(0, len(frames) - 1, _CONTACT_COLUMNS).round().astype(int)
        rows.append(np.concatenate(list(frames[picks]), axis=1))
    return np.concatenate(rows, axis=0)
