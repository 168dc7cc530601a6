"""Sample clips of a run, and what they are held against."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from swd_video.models.teacher_sampling import chosen_guidance
from swd_video.training.reference import TeacherSampling, real_reference, teacher_reference
from swd_video.training.samples import SampleWriter
from swd_video.training.step import Stepper


def build_samples(stepper: Stepper, embeds: Mapping[str, Tensor], folder: Path) -> SampleWriter | None:
    """What writes samples, if the config asks for any.

    Args:
        stepper: of the run.
        embeds: of the section's `texts`, by their keys in the config.
        folder: gets the samples.
    """
    train, networks, seed = stepper.train, stepper.networks, stepper.seed
    if not train.sample_every:
        return None
    prompts, count, teacher = train.sample_prompts, train.samples_per_prompt, train.teacher_samples
    prompt_embeds, target = embeds["train.sample_prompts"], stepper.schedule.target
    if teacher is None:
        reference = real_reference(stepper.clips, target, len(prompts), count)
    else:
        keep = stepper.accelerator.is_main_process
        guidance_scale = chosen_guidance(
            networks.model.spec,
            teacher.guidance_scale,
            teacher.negative_prompt,
            "train.teacher_samples.",
            quiet=not keep,
        )
        sampling = TeacherSampling(
            target, count, seed, teacher.steps, guidance_scale, teacher.shift, teacher.negative_prompt
        )
        negative_embeds = embeds["train.teacher_samples.negative_prompt"]
        path = folder / "teacher.safetensors"
        reference = teacher_reference(networks, sampling, prompts, prompt_embeds, negative_embeds, path, keep)
    return SampleWriter(
        networks, stepper.schedule, prompts, prompt_embeds, folder, seed, reference, stepper.upsample, count
    )
