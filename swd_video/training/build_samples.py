"""From a config's `train` section to sample clips and what they are held against."""

import sys
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.resize import Upsample
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.latent_cache import LatentCache
from swd_video.data.texts import cut_texts, describe_cut
from swd_video.models.base import VideoModel
from swd_video.models.teacher_sampling import chosen_guidance
from swd_video.objectives.networks import Networks
from swd_video.objectives.sections import DmdConfig
from swd_video.training.reference import TeacherSampling, real_reference, teacher_reference
from swd_video.training.samples import SampleWriter
from swd_video.training.train_section import TrainConfig


@dataclass(frozen=True)
class SampleEmbeds:
    """Embedded prompts, made while the text encoder is there.

    Attributes:
        prompts: of the samples; None where there are none.
        negative: what the teacher is guided away from; None where it makes no clips.
    """

    prompts: Float[Tensor, "prompts text_length text_dim"] | None
    negative: Float[Tensor, "1 text_length text_dim"] | None


def embed_samples(train: TrainConfig, model: VideoModel) -> SampleEmbeds:
    """Embed what samples will need."""
    if not train.sample_every:
        return SampleEmbeds(None, None)
    teacher = train.teacher_samples
    return SampleEmbeds(
        model.encode_prompt(list(train.sample_prompts)),
        None if teacher is None else model.encode_prompt([teacher.negative_prompt]),
    )


def say_cut_prompts(model: VideoModel, train: TrainConfig, dmd: DmdConfig | None) -> None:
    """Say on stderr of which of a config's prompts the model reads only the beginning.

    Raises:
        ConfigError: if the tokenizer fails at one.
    """
    teacher = train.teacher_samples if train.sample_every else None
    prompts = {"train.sample_prompts": train.sample_prompts if train.sample_every else ()}
    for key, guidance in (("train.teacher_samples", teacher), ("loss.dmd", dmd)):
        if guidance is not None and guidance.guidance_scale != 1:
            prompts[f"{key}.negative_prompt"] = (guidance.negative_prompt,)
    for key, texts in prompts.items():
        try:
            cut = cut_texts(model, texts)
        except Exception as error:
            raise ConfigError(f"{key}: the tokenizer cannot read a text: {error}") from None
        if line := describe_cut(cut, "prompt"):
            print(f"warning: {key}: {line}.", file=sys.stderr)


def build_samples(
    train: TrainConfig,
    schedule: ScaleSchedule,
    clips: LatentCache,
    networks: Networks,
    embeds: SampleEmbeds,
    folder: Path,
    seed: int,
    keep: bool,
    upsample: Upsample,
) -> SampleWriter | None:
    """What writes samples, if the config asks for any.

    Args:
        train: the config's section.
        schedule: the stages.
        clips: the training clips, against which samples are held where the teacher makes none.
        networks: teacher and student.
        embeds: from `embed_samples`.
        folder: gets the samples.
        seed: of the run.
        keep: whether this process writes files.
        upsample: takes clean latents from a stage's grid to the next.
    """
    if embeds.prompts is None:
        return None
    prompts, count, teacher = train.sample_prompts, train.samples_per_prompt, train.teacher_samples
    if teacher is None:
        reference = real_reference(clips, schedule.target, len(prompts), count)
    else:
        assert embeds.negative is not None
        sampling = TeacherSampling(
            grid=schedule.target,
            samples=count,
            seed=seed,
            steps=teacher.steps,
            guidance_scale=chosen_guidance(
                networks.model.spec,
                teacher.guidance_scale,
                teacher.negative_prompt,
                "train.teacher_samples.",
                quiet=not keep,
            ),
            shift=teacher.shift,
            negative_prompt=teacher.negative_prompt,
        )
        path = folder / "teacher.safetensors"
        reference = teacher_reference(
            networks, sampling, prompts, embeds.prompts, embeds.negative, path, keep
        )
    return SampleWriter(networks, schedule, prompts, embeds.prompts, folder, seed, reference, count, upsample)
