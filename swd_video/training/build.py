"""Config to objects: the only part of training that sees a whole config."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel

from swd_video.config import ConfigError, dump_config
from swd_video.core.randomness import keyed_global
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler
from swd_video.data.latent_cache import LatentCache
from swd_video.files import write_json, write_text
from swd_video.models.attention import set_attention
from swd_video.models.base import VideoModel
from swd_video.models.fsdp import wants_sharding
from swd_video.models.loading import load_model, resolve_model_path
from swd_video.models.recomputation import recompute_blocks
from swd_video.objectives.build import build_objectives, pixel_encoders
from swd_video.objectives.dmd import Critic
from swd_video.objectives.learners import Learner
from swd_video.objectives.mmd import WeightedObjective
from swd_video.objectives.networks import Networks
from swd_video.objectives.sections import LossConfig
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import STUDENT_FOLDER, Student
from swd_video.training.adapt import TEACHER_FOLDER, AdaptedTeacher, FlowMatching, FlowStepper
from swd_video.training.batch import BatchDivision, divide_batch
from swd_video.training.build_samples import build_samples, embed_samples, say_cut_prompts
from swd_video.training.checkpoint import CheckpointFolder
from swd_video.training.clip_order import ClipOrder
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.idle_parts import drop_text_encoders, keep_vae
from swd_video.training.loop import SUMMARY_FILE, LoopSettings, Product, Run, TrainSummary
from swd_video.training.open_clips import open_clips
from swd_video.training.optimizers import build_optimizers
from swd_video.training.precision import bf16_slowdown
from swd_video.training.processes import join_processes
from swd_video.training.provenance import (
    ADAPTATION_FILE,
    CONFIG_FILE,
    RECORD_FILE,
    check_record,
    check_same_run,
    digests_of_clips,
    digests_of_model,
    known_now,
    settings_of,
)
from swd_video.training.samples import SampleWriter
from swd_video.training.step import Stepper, StepSettings
from swd_video.training.train_section import LoraTrainConfig, MuonConfig
from swd_video.training.upsampler import UPSAMPLER_FILE, digest_of_upsampler, open_upsampler

_SLOW_BF16 = 2.0


def settle_precision(config: DistillConfig, folder: Path) -> DistillConfig:
    """The config with `mixed_precision: auto` replaced by what the first process's device does well.

    A run that was begun in `folder` keeps its precision: on a busy machine the clock may say otherwise today.
    """
    if config.train.mixed_precision != "auto":
        return config
    begun = [folder / name for name in (CONFIG_FILE, ADAPTATION_FILE) if (folder / name).is_file()]
    if begun:
        precision = load_config(begun[0]).train.mixed_precision
    else:
        precision = "bf16" if bf16_slowdown(join_processes().device) <= _SLOW_BF16 else None
    # Clocks differ between processes; one of them decides for all.
    (precision,) = broadcast_object_list([precision])
    return config.model_copy(update={"train": config.train.model_copy(update={"mixed_precision": precision})})


def finished_summary(
    config: DistillConfig, folder: Path, config_file: str = CONFIG_FILE
) -> TrainSummary | None:
    """What an earlier run of the same config left in `folder`, if it came to its end and what it made is still there.

    Raises:
        ConfigError: if the folder holds a run of another config.
    """
    check_same_run(config, folder, config_file)
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    try:
        summary = TrainSummary(**json.loads(path.read_text(encoding="utf-8")))
        is_there = (folder / Path(summary.student).name).is_dir()
    except (ValueError, TypeError):
        return None  # damaged: the last checkpoint says the same, and all is written again
    if not is_there or summary.steps != config.train.steps:
        return None
    check_record(folder, known_now(config))
    return summary


def build_run(config: DistillConfig, folder: Path) -> Run:
    """Load the teacher, encode clips where that is missing, and put all parts of a run together.

    Args:
        config: all of it, after `settle_precision`; saved as `config.yaml` in the folder.
        folder: of the run; made where it is missing, once everything else is found to work. A run that was stopped
            there goes on.

    Raises:
        ValueError: for input that cannot work, in one line.
    """
    parts = _begin(config, folder)
    model, accelerator = parts.model, parts.accelerator
    upsampler = open_upsampler(config.upsampler, parts.schedule, parts.clips, accelerator, folder)
    made_of = parts.made_of | {"upsampler": digest_of_upsampler(upsampler)}
    check_record(folder, made_of)
    if accelerator.is_main_process:
        say_cut_prompts(model, config.train, config.loss.dmd)
    embeds = embed_samples(config.train, model)
    dmd = config.loss.dmd
    dmd_negative = None if dmd is None else model.encode_prompt([dmd.negative_prompt])
    drop_text_encoders(model)
    _place(config, model, accelerator.device)
    encoders = pixel_encoders(config.loss.mmd)
    if encoders:
        keep_vae(model, accelerator.device)
    networks = _build_networks(config, model)
    stepper = _build_stepper(
        config,
        parts,
        networks,
        lambda: build_objectives(
            config.loss, parts.schedule, networks, dmd_negative, accelerator, config.seed
        ),
        upsampler=upsampler,
    )
    known = _claim_folder(config, folder, accelerator, CONFIG_FILE, made_of, upsampler)
    samples = build_samples(
        config.train,
        parts.schedule,
        parts.clips,
        networks,
        embeds,
        folder / "samples",
        config.seed,
        accelerator.is_main_process,
        stepper.upsample,
    )
    file = config.load.transformer_file
    student = Student(
        config.model,
        ScaleWiseFlowMatchScheduler.from_schedule(parts.schedule, upsampler=upsampler),
        positions=config.positions,
        trained_through=encoders,
        transformer_file=None if file is None else str(file),
        made_of=known,
        adapter=config.load.adapter,
    )
    return _finish(config, folder, stepper, samples, student, folder / STUDENT_FOLDER)


def build_adaptation(config: DistillConfig, folder: Path) -> Run:
    """The same for a teacher that is to learn the schedule's grids; `loss` and noise levels of stages do not count.

    Args:
        config: as for `build_run`.
        folder: likewise.

    Raises:
        ValueError: for input that cannot work, in one line.
    """
    config = _for_adaptation(config)
    parts = _begin(config, folder, ADAPTATION_FILE)
    model = parts.model
    adapt = config.adapt
    objective = FlowMatching(adapt.sigma_shift, adapt.empty_prompts, model.encode_prompt([""]))
    drop_text_encoders(model)
    _place(config, model, parts.accelerator.device)
    networks = _build_networks(config, model, Networks.to_adapt)
    stepper = _build_stepper(
        config, parts, networks, lambda: ([WeightedObjective("flow", 1.0, objective)], []), FlowStepper
    )
    _claim_folder(config, folder, parts.accelerator, ADAPTATION_FILE, parts.made_of)
    teacher = AdaptedTeacher(resolve_model_path(config.model))
    return _finish(config, folder, stepper, None, teacher, folder / TEACHER_FOLDER)


def finished_adaptation(config: DistillConfig, folder: Path) -> TrainSummary | None:
    """`finished_summary` of an adaptation."""
    return finished_summary(_for_adaptation(config), folder, ADAPTATION_FILE)


def _for_adaptation(config: DistillConfig) -> DistillConfig:
    """Without what belongs to a student: losses and groups of clips, samples, ways from stage to stage."""
    train = config.train.model_copy(
        update={"sample_every": 0, "teacher_samples": None, "backward_simulation": 0.0}
    )
    return config.model_copy(update={"loss": LossConfig(), "train": train, "upsampler": None})


@dataclass(frozen=True)
class _Parts:
    accelerator: Accelerator
    model: VideoModel
    schedule: ScaleSchedule
    clips: LatentCache
    made_of: dict[str, Any]


def _begin(config: DistillConfig, folder: Path, config_file: str = CONFIG_FILE) -> _Parts:
    """What every training needs first: checks, the model in main memory, and its clips."""
    check_same_run(config, folder, config_file)
    _check_load(config)
    _divide_batch(config, join_processes().num_processes)
    _check_shards(config)
    # bfloat16 is autocast where the networks are called (step.py), not by accelerate around their outside.
    accelerator = Accelerator(mixed_precision="no", log_with="tensorboard", project_dir=str(folder))
    _warn_of_slow_bf16(config, accelerator)
    model = _load(config)
    schedule = config.scale_schedule()
    schedule.tokens(model.spec.compression)
    if not isinstance(model.transformer, ModelMixin):
        raise ConfigError(
            f"model: {config.model} has two transformers and a student is one; name a model with a single one."
        )
    if config.positions == "rescaled":
        model.rescale_positions(schedule.target.frames)
    clips = open_clips(config.data, config.model, schedule, model, accelerator)
    made_of = digests_of_model(config) | digests_of_clips(clips.index)
    check_record(folder, made_of)
    return _Parts(accelerator, model, schedule, clips, made_of)


def _claim_folder(
    config: DistillConfig,
    folder: Path,
    accelerator: Accelerator,
    config_file: str,
    made_of: dict[str, Any],
    upsampler: LatentUpsampler | None = None,
) -> dict[str, Any] | None:
    """Make the folder this config's, once all that could be wrong with the config has been found.

    Returns:
        What the run is made of; None for one that an older version began, of which that is not known.
    """
    made_of = made_of | {"settings": settings_of(config)}
    known = (folder / RECORD_FILE).is_file() or not (folder / config_file).is_file()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if known:
            write_json(folder / RECORD_FILE, made_of, durable=True)
        if upsampler is not None:
            upsampler.save(folder / UPSAMPLER_FILE)
        write_text(folder / config_file, dump_config(config), durable=True)
    accelerator.wait_for_everyone()
    return made_of if known else None


def _finish(
    config: DistillConfig,
    folder: Path,
    stepper: Stepper,
    samples: SampleWriter | None,
    product: Product,
    result: Path,
) -> Run:
    train = config.train
    return Run(
        folder=folder,
        stepper=stepper,
        checkpoints=CheckpointFolder(folder / "checkpoints", train.keep_checkpoints),
        samples=samples,
        settings=LoopSettings(
            steps=train.steps,
            checkpoint_every=train.checkpoint_every,
            sample_every=train.sample_every,
            log_every=train.log_every,
            average=train.ema_decay > 0,
            collapse_share=train.collapse_share,
        ),
        product=product,
        result=result,
    )


def _check_load(config: DistillConfig) -> None:
    """Refuse ways to load a teacher that encode clips but train nothing."""
    load, all_train = config.load, config.train.kind == "full"
    wrong = (
        ("cpu_offload", load.cpu_offload is not None, "null; text encoder and VAE leave the device anyway"),
        ("float8_weights", load.float8_weights, "false; gradients need whole weights"),
        ("attention", load.attention == "sage", "another; it computes no gradients"),
        (
            "dtype",
            load.dtype != "float32" and all_train,
            "float32, as all weights train, or train.kind: lora",
        ),
    )
    for key, refused, expected in wrong:
        if refused:
            raise ConfigError(f"load.{key}: got {getattr(load, key)!r} to train with, expected {expected}.")


def _check_shards(config: DistillConfig) -> None:
    if wants_sharding() and isinstance(config.train.optimizer, MuonConfig):
        raise ConfigError(
            "train.optimizer.kind: muon needs whole matrices, and FSDP divides them; take adamw, or "
            "configs/accelerate/ddp.yaml."
        )


def _divide_batch(config: DistillConfig, num_processes: int) -> BatchDivision:
    train = config.train
    return divide_batch(
        train.batch_size, train.stages_per_step, num_processes, train.micro_batch_size, config.loss.mmd.group
    )


def _load(config: DistillConfig) -> VideoModel:
    """The teacher in main memory, where text encoder and VAE wait until they are needed."""
    options = config.load.model_copy(update={"attention": "auto"})
    return load_model(config.model, dtype=getattr(torch, config.load.dtype), options=options)


def _place(config: DistillConfig, model: VideoModel, device: torch.device) -> None:
    """Put the network where it trains, with the attention that the config asks for."""
    if not wants_sharding():
        model.transformer.to(device)
    dtype = torch.bfloat16 if config.train.mixed_precision == "bf16" else getattr(torch, config.load.dtype)
    attention, mask = config.load.attention, model.attention_mask
    set_attention(cast(ModelMixin, model.transformer), attention, device=device, dtype=dtype, mask=mask)


def _warn_of_slow_bf16(config: DistillConfig, accelerator: Accelerator) -> None:
    uses = {
        "train.mixed_precision: bf16": config.train.mixed_precision == "bf16",
        # torch's Muon orthogonalises in bfloat16 whatever the weights are.
        "train.optimizer.kind: muon": isinstance(config.train.optimizer, MuonConfig),
    }
    keys = [key for key, used in uses.items() if used]
    if not keys or not accelerator.is_main_process:
        return
    slowdown = bf16_slowdown(accelerator.device)
    if slowdown > _SLOW_BF16:
        print(
            f"warning: {' and '.join(keys)} multiplies in bfloat16, for which this processor takes {slowdown:.0f} "
            "times as long as for float32.",
            file=sys.stderr,
        )


def _build_networks(
    config: DistillConfig, model: VideoModel, whole: Callable[[VideoModel], Networks] = Networks.with_copy
) -> Networks:
    train = config.train
    if isinstance(train, LoraTrainConfig):
        targets = model.lora_targets if train.targets is None else train.targets
        # The additions' first half starts random; the run's seed decides it, and nothing else does.
        with keyed_global(config.seed, "lora"):
            networks: Networks = Networks.with_lora(model, train.rank, targets)
    else:
        networks = whole(model)
    if train.gradient_checkpointing:
        for network in {networks.student, model.transformer}:
            recompute_blocks(network)
    return networks


def _build_stepper(
    config: DistillConfig,
    parts: _Parts,
    networks: Networks,
    build_losses: Callable[[], tuple[list[WeightedObjective], list[Learner]]],
    kind: type[Stepper] = Stepper,
    upsampler: LatentUpsampler | None = None,
) -> Stepper:
    train, accelerator = config.train, parts.accelerator
    shards = wants_sharding()
    if not shards:
        # Before a critic comes in, whose gradients are averaged apart.
        networks.student_forward = accelerator.prepare_model(networks.student)
    objectives, learners = build_losses()
    if shards:
        networks.divide(accelerator.device)
        for learner in learners:
            if isinstance(learner, Critic):
                learner.renew(networks)
    parameters = networks.trainable_parameters()
    return kind(
        networks=networks,
        objectives=objectives,
        schedule=parts.schedule,
        clips=parts.clips,
        order=_build_order(config, parts.clips, accelerator),
        optimizers=build_optimizers(parameters, train),
        ema=EMAModel(list(parameters.values()), decay=train.ema_decay, foreach=not shards),
        accelerator=accelerator,
        settings=StepSettings(
            seed=config.seed,
            division=_divide_batch(config, accelerator.num_processes),
            stage_weights=train.stage_weights or (1.0,) * len(parts.schedule),
            lr_warmup_steps=train.lr_warmup_steps,
            max_grad_norm=train.max_grad_norm,
            bf16=train.mixed_precision == "bf16",
            backward_simulation=train.backward_simulation,
        ),
        learners=learners,
        upsample=upsampler or networks.model.resize_latents,
    )


def _build_order(config: DistillConfig, clips: LatentCache, accelerator: Accelerator) -> ClipOrder:
    order = ClipOrder(clips.captions, config.loss.mmd.group, config.seed)
    if order.num_groups == 0:
        raise ConfigError(
            f"loss.mmd.group: no caption of {config.data.cache} has {order.group_size} clips; take smaller groups, "
            "or more clips of each caption"
        )
    if order.num_captions_skipped and accelerator.is_main_process:
        print(
            f"loss.mmd.group: {order.num_captions_skipped} of {order.num_captions} captions have fewer than "
            f"{order.group_size} clips and are left out.",
            file=sys.stderr,
        )
    return order
