"""Sample clips of a student in training, so that one sees early whether it goes well."""

import io
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from swd_video.core.pixels import frames_from_pixels
from swd_video.core.randomness import keyed_generator
from swd_video.core.sampling import sample_scalewise
from swd_video.data.video import write_video
from swd_video.files import whole_folder, write_json
from swd_video.models.decoding import decode_whole, shown_through
from swd_video.models.guidance import WeakerSelf
from swd_video.models.teacher_sampling import chosen_guidance
from swd_video.training.collapse import ClipsByPrompt, measure_clips, shares_of
from swd_video.training.idle_parts import moved_to
from swd_video.training.reference import real_latents, teacher_latents
from swd_video.training.step import Stepper

_CONTACT_COLUMNS = 6
_MOST_LOGGED_PX = 192
MEASURES_FILE, TEACHER_FOLDER = "measures.json", "teacher"


class SampleWriter:
    """Renders the same prompts from the same noise each time it is asked, and holds the clips against others.

    Those are the teacher's of the same prompts, where the config has `train.teacher_samples`, else training clips.

    Args:
        stepper: of the run.
        embeds: of the texts that the `train` section names, by their keys in the config.
        folder: gets a folder `step_00000100` with an MP4 for each sample of each prompt, `measures.json`, and
            `contact.png`, one row a prompt; and a folder `teacher` with its clips, where it makes them.

    Attributes:
        prompts: what is shown.
        whose: the clips that the student's are held against, in words.

    Raises:
        ValueError: if the teacher cannot be guided as the config says.
    """

    def __init__(self, stepper: Stepper, embeds: Mapping[str, Tensor], folder: Path) -> None:
        train, speaks = stepper.train, stepper.accelerator.is_main_process
        self.prompts, self.folder = train.sample_prompts, folder
        self._stepper, self._model = stepper, stepper.networks.model
        self._prompt_embeds = embeds["train.sample_prompts"]
        if train.teacher_samples is None:
            self.whose = "real clips"
            self._read_reference = partial(real_latents, stepper)
        else:
            self.whose = "teacher"
            negative_embeds = embeds["train.teacher_samples.negative_prompt"]
            guidance_scale = chosen_guidance(
                self._model.spec,
                train.teacher_samples.guidance_scale,
                train.teacher_samples.negative_prompt,
                "train.teacher_samples.",
                quiet=not speaks,
            )
            section = train.teacher_samples.weaker
            weaker = (
                None if section is None else WeakerSelf(section, self._model, "train.teacher_samples.weaker")
            )
            self._read_reference = partial(
                teacher_latents,
                stepper,
                train.teacher_samples,
                guidance_scale,
                self._prompt_embeds,
                negative_embeds,
                weaker,
                folder / "teacher.safetensors",
            )

    @cached_property
    def reference_clips(self) -> ClipsByPrompt:
        """The clips that the student's are held against, made and decoded once."""
        return [self._decode(latents) for latents in self._read_reference()]

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

        Returns:
            (all that was measured by name, as its file and logs have it; the shares of the reference's among it).
        """
        final = self.folder / f"step_{step:08d}"
        beside = self._teachers_clips()
        measured = measure_clips(clips)
        shares = shares_of(measured, self.reference_measures)
        values = measured | {f"{name}_share": share for name, share in shares.items()}
        self._write_folder(final, clips, beside, values)
        if beside is not None and not (self.folder / TEACHER_FOLDER / MEASURES_FILE).is_file():
            self._write_folder(self.folder / TEACHER_FOLDER, beside, None, self.reference_measures)
        return values, shares

    def side_by_side(self, clips: ClipsByPrompt) -> list[UInt8[np.ndarray, "frames height width 3"]]:
        """The first sample of each prompt, with the teacher's on its right where that is the reference."""
        beside = self._teachers_clips()
        if beside is None:
            return [samples[0] for samples in clips]
        return [np.concatenate([own[0], other[0]], axis=2) for own, other in zip(clips, beside, strict=True)]

    def _teachers_clips(self) -> ClipsByPrompt | None:
        return self.reference_clips if self.whose == "teacher" else None

    def _write_folder(
        self, final: Path, clips: ClipsByPrompt, beside: ClipsByPrompt | None, values: dict[str, float]
    ) -> None:
        with whole_folder(final) as draft:
            for index, (prompt, samples) in enumerate(zip(self.prompts, clips, strict=True)):
                for number, frames in enumerate(samples):
                    name = f"{index:02d}-{number}.mp4" if len(samples) > 1 else f"{index:02d}.mp4"
                    write_video(draft / name, frames, self._model.spec.fps, metadata={"comment": prompt})
            rows = [samples[0] for samples in clips]
            if beside is not None:
                rows = [row for own, other in zip(clips, beside, strict=True) for row in (own[0], other[0])]
            Image.fromarray(_contact_sheet(rows)).save(draft / "contact.png")
            write_json(draft / MEASURES_FILE, values)

    def _sample(self, index: int) -> Float[Tensor, "samples channels frames height width"]:
        stepper, count = self._stepper, self._stepper.train.samples_per_prompt
        prompt_embeds = self._prompt_embeds[index : index + 1].expand(count, -1, -1)

        def predict_velocity(noisy_latents: Tensor, sigma: float, stage_index: int) -> Tensor:
            return stepper.networks.predict_velocity(
                noisy_latents, stepper.schedule[stage_index], prompt_embeds
            )

        return sample_scalewise(
            predict_velocity,
            stepper.schedule,
            batch_size=count,
            channels=self._model.spec.latent_channels,
            generator=[keyed_generator(stepper.seed, "sample", index, number) for number in range(count)],
            device=self._model.device,
            upsample=stepper.upsample,
        )

    @torch.no_grad()
    def _decode(
        self, latents: Float[Tensor, "samples channels _ _ _"]
    ) -> list[UInt8[np.ndarray, "frames height width 3"]]:
        model, clips = self._model, []
        with moved_to(model.device, shown_through(model)):
            for one in latents.to(model.device).split(1):
                frames = frames_from_pixels(decode_whole(model, one)[0])
                clips.append(frames.permute(1, 2, 3, 0).cpu().numpy())
        return clips


def add_clip(
    writer: Any, tag: str, frames: UInt8[np.ndarray, "frames height width 3"], fps: float, step: int
) -> None:
    """Write a clip to TensorBoard, which plays an animated GIF; shrunk to 192 pixels of height at most."""
    images = [Image.fromarray(frame) for frame in frames]
    shrink = min(1.0, _MOST_LOGGED_PX / images[0].height)
    size = (max(1, round(images[0].width * shrink)), max(1, round(images[0].height * shrink)))
    images = [image.resize(size) for image in images]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
    )
    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=buffer.getvalue())
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def _contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "frames height width 3"]],
) -> UInt8[np.ndarray, "_ _ 3"]:
    rows = []
    for frames in clips:
        picks = np.linspace(0, len(frames) - 1, _CONTACT_COLUMNS).round().astype(int)
        rows.append(np.concatenate(list(frames[picks]), axis=1))
    return np.concatenate(rows, axis=0)
