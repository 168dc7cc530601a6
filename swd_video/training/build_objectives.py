"""From a config's `loss` section to objectives, and to the networks that learn beside the student."""

import sys

import torch
from accelerate import Accelerator
from torch import Tensor

from swd_video.config.load import ConfigError
from swd_video.config.schema import LossConfig, MmdConfig, MmdTermConfig
from swd_video.core.randomness import keyed_seed
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel
from swd_video.training.dmd import Critic, DmdObjective, NoiseRange
from swd_video.training.gan import Discriminator, GanObjective
from swd_video.training.objectives import MmdObjective, WeightedObjective, check_term, token_grid
from swd_video.training.opponents import Opponent
from swd_video.training.roles import Roles

_DMD_WARNING = (
    "warning: loss.dmd: a teacher that was not trained on the small grids cannot make clips there, and distribution "
    "matching hands its mistakes on: trained so, students of Wan2.1 came out worse than with mmd alone "
    "(arXiv 2503.16397). `swd-video adapt` trains it on them; then set loss.dmd.scale_adapted to true."
)


def build_objectives(
    loss: LossConfig,
    schedule: ScaleSchedule,
    roles: Roles,
    negative_embeds: Tensor | None,
    accelerator: Accelerator,
    seed: int,
) -> tuple[list[WeightedObjective], list[Opponent]]:
    """Make what a config's `loss` section asks for.

    Args:
        loss: the section.
        schedule: its stages.
        roles: teacher and student; gets the critic, where there is one.
        negative_embeds: embedding of `loss.dmd.negative_prompt`, where there is `loss.dmd`.
        accelerator: knows the device, and who speaks.
        seed: of the run.

    Returns:
        (weighted objectives of the student, networks that learn beside it).

    Raises:
        ConfigError: for a block or a set of tokens that the teacher does not have.
    """
    objectives: list[WeightedObjective] = []
    opponents: list[Opponent] = []
    dmd, gan, spec = loss.dmd, loss.gan, roles.model.spec
    if loss.mmd.terms:
        objectives.append(WeightedObjective("mmd", 1.0, _build_mmd(loss.mmd, schedule, roles.model)))
    if dmd is not None:
        if not dmd.scale_adapted and len(schedule.distinct_grids) > 1 and accelerator.is_main_process:
            print(_DMD_WARNING, file=sys.stderr)
        noise = NoiseRange(dmd.sigma_min, dmd.sigma_max)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(keyed_seed(seed, "critic"))
            targets = roles.model.lora_targets if dmd.critic_targets is None else dmd.critic_targets
            opponents.append(Critic(roles, dmd.critic_rank, targets, dmd.critic_lr, noise))
        assert negative_embeds is not None
        objective = DmdObjective(noise, dmd.guidance_scale, negative_embeds, dmd.data_share)
        objectives.append(WeightedObjective("dmd", dmd.weight, objective))
    if gan is not None:
        blocks = _known_blocks("loss.gan.block", gan.block, spec.num_blocks)
        discriminator = Discriminator(
            gan.head,
            blocks,
            spec.hidden_size,
            gan.hidden,
            gan.lr,
            NoiseRange(gan.sigma_min, gan.sigma_max),
            keyed_seed(seed, "discriminator"),
            accelerator.device,
        )
        opponents.append(discriminator)
        objectives.append(WeightedObjective("gan", gan.weight, GanObjective(discriminator)))
    return objectives, opponents


def _known_blocks(key: str, blocks: tuple[int, ...] | None, num_blocks: int) -> tuple[int, ...]:
    """The middle block where none is named."""
    known = (num_blocks // 2,) if blocks is None else blocks
    if max(known) >= num_blocks:
        raise ConfigError(f"{key}: {max(known)} does not exist; the teacher has blocks 0 to {num_blocks - 1}")
    return known


def _build_mmd(mmd: MmdConfig, schedule: ScaleSchedule, model: VideoModel) -> MmdObjective:
    spec = model.spec
    terms: list[MmdTermConfig] = []
    for term in mmd.terms:
        key = "loss.mmd" if term is mmd else f"loss.mmd.extra_terms[{mmd.extra_terms.index(term)}]"
        blocks = _known_blocks(f"{key}.block", term.block, spec.num_blocks)
        for grid in schedule.distinct_grids:
            try:
                check_term(term, token_grid(grid.as_tuple(), spec.compression.patch))
            except ValueError as error:
                raise ConfigError(f"{key}.{error} (latent grid {grid})") from None
        terms.append(term.model_copy(update={"block": blocks}))
    return MmdObjective(tuple(terms), mmd.group)
