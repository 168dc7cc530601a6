"""From a config's `loss` section to objectives, and to the networks that learn beside the student."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.randomness import keyed_global
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.pixel_encoders import PixelEncoder, TransformersEncoder, TransNetEncoder
from swd_video.models.teacher_sampling import chosen_guidance
from swd_video.objectives.dmd import Critic, DmdObjective, NoiseRange
from swd_video.objectives.encoder_sections import (
    LATENT_ENCODERS,
    EncoderConfig,
    TransformersEncoderConfig,
    TransNetEncoderConfig,
)
from swd_video.objectives.features import BlockFeatures, FeatureSource, PixelFeatures, Window
from swd_video.objectives.gan import Discriminator, GanObjective
from swd_video.objectives.learners import Learner
from swd_video.objectives.mmd import MmdObjective, WeightedObjective, check_term
from swd_video.objectives.networks import Networks
from swd_video.objectives.sections import LossConfig, MmdConfig, MmdTermConfig
from swd_video.student.student import PixelNetwork

_DMD_WARNING = (
    "warning: loss.dmd: a teacher that was not trained on the small grids cannot make clips there, and distribution "
    "matching hands its mistakes on: trained so, students of Wan2.1 came out worse than with mmd alone "
    "(arXiv 2503.16397). `swd-video adapt` trains it on them; then set loss.dmd.scale_adapted to true."
)


def build_objectives(
    loss: LossConfig,
    schedule: ScaleSchedule,
    networks: Networks,
    negative_embeds: Tensor | None,
    accelerator: Accelerator,
    seed: int,
) -> tuple[list[WeightedObjective], list[Learner]]:
    """Make what a config's `loss` section asks for.

    Args:
        loss: the section.
        schedule: its stages.
        networks: teacher and student; gets the critic, where there is one.
        negative_embeds: embedding of `loss.dmd.negative_prompt`, where there is `loss.dmd`.
        accelerator: knows the device, and who speaks.
        seed: of the run.

    Returns:
        (weighted objectives of the student, networks that learn beside it).

    Raises:
        ConfigError: for an encoder that cannot be loaded, or a block or a set of tokens that one does not have.
    """
    objectives: list[WeightedObjective] = []
    learners: list[Learner] = []
    dmd, gan, spec = loss.dmd, loss.gan, networks.model.spec
    if loss.mmd.terms:
        mmd = _build_mmd(loss.mmd, schedule, networks.model, accelerator.device)
        objectives.append(WeightedObjective("mmd", 1.0, mmd))
    if dmd is not None:
        if not dmd.scale_adapted and len(schedule.distinct_grids) > 1 and accelerator.is_main_process:
            print(_DMD_WARNING, file=sys.stderr)
        noise = NoiseRange(dmd.sigma_min, dmd.sigma_max)
        with keyed_global(seed, "critic"):
            targets = networks.model.lora_targets if dmd.critic_targets is None else dmd.critic_targets
            critic = Critic(networks, dmd.critic_rank, targets, dmd.critic_lr, noise, dmd.critic_updates)
        learners.append(critic)
        assert negative_embeds is not None
        guidance = chosen_guidance(
            spec,
            dmd.guidance_scale,
            dmd.negative_prompt,
            "loss.dmd.",
            quiet=not accelerator.is_main_process,
        )
        objective = DmdObjective(noise, guidance, negative_embeds, dmd.data_share)
        objectives.append(WeightedObjective("dmd", dmd.weight, objective))
    if gan is not None:
        blocks = _known_blocks("loss.gan.block", gan.block, "teacher", spec.num_blocks)
        discriminator = Discriminator(
            gan.head,
            blocks,
            spec.hidden_size,
            gan.hidden,
            gan.lr,
            NoiseRange(gan.sigma_min, gan.sigma_max),
            seed,
            accelerator.device,
            gan.objective,
            gan.updates,
        )
        learners.append(discriminator)
        objectives.append(WeightedObjective("gan", gan.weight, GanObjective(discriminator)))
    return objectives, learners


def pixel_encoders(mmd: MmdConfig) -> tuple[PixelNetwork, ...]:
    """The networks of pixels that a loss looks through, for the student's record; a step with any needs the VAE."""
    records: list[PixelNetwork] = []
    for term in mmd.terms:
        encoder = term.encoder
        if isinstance(encoder, TransNetEncoderConfig):
            records.append(PixelNetwork(encoder.kind))
        elif isinstance(encoder, TransformersEncoderConfig):
            folder = Path(encoder.name)
            # Where a folder lies says nothing on another machine; what is in it does.
            records.append(
                PixelNetwork(folder.resolve().name, fingerprint_folders([folder]))
                if folder.is_dir()
                else PixelNetwork(encoder.name)
            )
    return tuple(dict.fromkeys(records))


def _known_blocks(key: str, blocks: tuple[int, ...] | None, owner: str, num_blocks: int) -> tuple[int, ...]:
    """The middle block where none is named."""
    known = (num_blocks // 2,) if blocks is None else blocks
    if max(known) >= num_blocks:
        raise ConfigError(f"{key}: {max(known)} does not exist; the {owner} has blocks 0 to {num_blocks - 1}")
    return known


def _build_mmd(
    mmd: MmdConfig, schedule: ScaleSchedule, model: VideoModel, device: torch.device
) -> MmdObjective:
    window = Window(mmd.window.frames, mmd.window.crop)
    terms: list[MmdTermConfig] = []
    sources: dict[EncoderConfig, FeatureSource] = {}
    for term in mmd.terms:
        key = "loss.mmd" if term is mmd else f"loss.mmd.extra_terms[{mmd.extra_terms.index(term)}]"
        if term.encoder not in sources:
            sources[term.encoder] = _build_source(f"{key}.encoder", term.encoder, model, window, device)
        source = sources[term.encoder]
        blocks = _known_blocks(f"{key}.block", term.block, source.name, source.num_blocks)
        for grid in schedule.distinct_grids:
            for block in blocks:
                try:
                    check_term(term, source.grid(grid, block))
                except ValueError as error:
                    where = f"latent grid {grid}, block {block} of {source.name}"
                    raise ConfigError(f"{key}.{error} ({where})") from None
        terms.append(term.model_copy(update={"block": blocks}))
    return MmdObjective(tuple(terms), sources, mmd.group, window)


def _build_source(
    key: str, encoder: EncoderConfig, model: VideoModel, window: Window, device: torch.device
) -> FeatureSource:
    spec = model.spec
    if isinstance(encoder, LATENT_ENCODERS):
        return BlockFeatures(encoder.kind, spec.num_blocks, spec.compression.patch, encoder.clean)
    try:
        return PixelFeatures(_load_encoder(encoder, device), spec.compression, window)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def _load_encoder(
    encoder: TransformersEncoderConfig | TransNetEncoderConfig, device: torch.device
) -> PixelEncoder:
    if isinstance(encoder, TransNetEncoderConfig):
        return TransNetEncoder(encoder.weights, encoder.short_side_px, device)
    return TransformersEncoder(encoder.name, encoder.frames, device)
