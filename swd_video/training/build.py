"""Config to objects: how a run is put together, in the order in which it happens."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.randomness import keyed_global
from swd_video.core.upsampler import LatentUpsampler
from swd_video.data.latent_cache import LatentCache
from swd_video.files import alone_in
from swd_video.models.attention import set_attention
from swd_video.models.base import VideoModel
from swd_video.models.decoding import load_decoder
from swd_video.models.fsdp import join_processes, wants_sharding
from swd_video.models.loading import load_teacher, resolve_model_path
from swd_video.models.recomputation import recompute_blocks
from swd_video.objectives.loss import LossConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import Objective, ObjectiveConfig, learners_of
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import STUDENT_FOLDER, Student
from swd_video.training import loop
from swd_video.training.batch import divide_batch
from swd_video.training.checkpoint import CheckpointFolder
from swd_video.training.clip_order import ClipOrder, order_clips
from swd_video.training.config import DistillConfig, FullTrainConfig, LoraTrainConfig, load_config
from swd_video.training.finished import finished_summary
from swd_video.training.idle_parts import drop_text_encoders, embed_texts
from swd_video.training.loop import Run, TrainSummary
from swd_video.training.open_clips import check_cache_apart, open_clips
from swd_video.training.optimizers import MuonConfig, build_optimizers
from swd_video.training.outcome import claim_folder, save_teacher
from swd_video.training.precision import settle_precision, warn_of_slow_bf16
from swd_video.training.provenance import (
    ADAPTATION_FILE,
    CONFIG_FILE,
    check_record,
    check_same_run,
    digests_of_clips,
    digests_of_model,
)
from swd_video.training.samples import SampleWriter
from swd_video.training.start import kept_upsampler, save_part_of_the_way, start_from, start_of
from swd_video.training.step import Stepper
from swd_video.training.upsampler import digest_of_upsampler, open_upsampler


def distill(
    config: DistillConfig | str | Path, out: str | Path, *, overrides: Mapping[str, Any] | None = None
) -> TrainSummary:
    """Distil a student, as `swd-video distill` does: a run that was stopped goes on, a finished one stays as it is.

    Args:
        config: all of it, or its file.
        out: folder of the run, where `student/` comes to lie.
        overrides: keys of the file to change, as for `load_config_as`.

    Raises:
        ValueError: for wrong input, in one line.
        FolderInUseError: if another run trains there.
        NonFiniteError: when a loss or a gradient is not finite; the last checkpoint stays.
    """
    return _train(config, Path(out), overrides, adapts=False)


def adapt(
    config: DistillConfig | str | Path, out: str | Path, *, overrides: Mapping[str, Any] | None = None
) -> TrainSummary:
    """The same for a teacher that learns a schedule's grids, as `swd-video adapt` does."""
    return _train(config, Path(out), overrides, adapts=True)


def _train(
    config: DistillConfig | str | Path,
    out: Path,
    overrides: Mapping[str, Any] | None,
    adapts: bool,
) -> TrainSummary:
    if not isinstance(config, DistillConfig):
        config = load_config(config, overrides)
    elif overrides:
        raise ValueError(
            "overrides: go with a config's file; change a config that is loaded by `model_copy`."
        )
    check_cache_apart(config.data, out)
    # Started by `accelerate launch`, this is one of several processes, of which the first holds the folder.
    with alone_in(out) if join_processes().is_main_process else nullcontext():
        config, config_file = _of_run(settle_precision(config, out), adapts)
        summary = finished_summary(config, out, config_file)
        return loop.train(build_run(config, out, adapts=adapts)) if summary is None else summary


def build_run(config: DistillConfig, folder: Path, *, adapts: bool = False) -> Run:
    """Put a distillation together, or an adaptation, for which `loss` and noise levels of stages do not count.

    Args:
        config: all of it, after `settle_precision`; saved as `config.yaml` in the folder.
        folder: of the run; made where it is missing, once everything else is found to work. A run that was stopped
            there goes on.
        adapts: whether a teacher is to learn the schedule's grids.

    Raises:
        ValueError: for input that cannot work, in one line.
    """
    config, config_file = _of_run(config, adapts)
    sections: Mapping[str, ObjectiveConfig] = {"flow": config.adapt} if adapts else config.loss.objectives
    train = config.train
    sharded, num_processes = wants_sharding(), join_processes().num_processes

    # What can be found wrong before anything is loaded.
    check_same_run(config, folder, config_file)
    _check_load(config, sharded)
    division = divide_batch(train, config.loss.group, num_processes)
    before = start_of(train)

    # The teacher in main memory, its clips, and the way from grid to grid.
    # bfloat16 is autocast where the networks are called (step.py), not by accelerate around their outside.
    accelerator = Accelerator(mixed_precision="no", log_with="tensorboard", project_dir=str(folder))
    warn_of_slow_bf16(config, accelerator)
    model, schedule = _load_teacher(config), config.scale_schedule()
    clips, order, upsampler, made_of = _open_clips(config, model, before, accelerator, folder)

    # From here on the device is for what trains.
    embeds = _embed_texts(config, sections, model, accelerator)
    _place_decoders(sections, model, accelerator)
    networks = _place_networks(config, model, accelerator, adapts)
    start_from(before, networks.student)
    objectives = _build_objectives(config, sections, networks, embeds, accelerator)
    parameters = networks.trainable_parameters()
    stepper = Stepper(
        networks=networks,
        objectives=objectives,
        schedule=schedule,
        clips=clips,
        order=order,
        optimizers=build_optimizers(parameters, train.optimizer, train.lr),
        ema=EMAModel(list(parameters.values()), decay=train.ema_decay, foreach=not sharded),
        accelerator=accelerator,
        upsample=upsampler or model.resize_latents,
        train=train,
        division=division,
        seed=config.seed,
    )

    samples = SampleWriter(stepper, embeds, folder / "samples") if train.sample_every else None
    checkpoints = CheckpointFolder(folder / "checkpoints", train.keep_checkpoints)
    checkpoints.check_steps(train.steps, loop.state_of(stepper))
    # All that could be wrong has been found, so the folder becomes this run's.
    known = claim_folder(config, folder, accelerator, config_file, made_of, upsampler)
    if adapts:
        save = partial(save_teacher, resolve_model_path(config.model))
        return Run(folder, stepper, checkpoints, samples, save, folder / "teacher")
    student = _student(config, sections, model, upsampler, known, before)
    save = partial(save_part_of_the_way, student, before, train)
    return Run(folder, stepper, checkpoints, samples, save, folder / STUDENT_FOLDER)


def _open_clips(
    config: DistillConfig, model: VideoModel, before: Student | None, accelerator: Accelerator, folder: Path
) -> tuple[LatentCache, ClipOrder, LatentUpsampler | None, dict[str, Any]]:
    """Clips on every grid and their order, the way from grid to grid, and digests of all of these."""
    schedule = config.scale_schedule()
    clips = open_clips(config.data, config.model, config.load.adapter, schedule, model, accelerator)
    order = order_clips(clips, config.loss.group, config.seed, accelerator)
    made_of = digests_of_model(config) | digests_of_clips(clips.index)
    check_record(folder, made_of)  # before an upsampler is trained
    upsampler = kept_upsampler(before, config.upsampler, schedule, accelerator.device)
    if upsampler is None:
        upsampler = open_upsampler(config.upsampler, schedule, clips, accelerator, folder)
    made_of["upsampler"] = digest_of_upsampler(upsampler)
    check_record(folder, made_of)
    return clips, order, upsampler, made_of


def _embed_texts(
    config: DistillConfig,
    sections: Mapping[str, ObjectiveConfig],
    model: VideoModel,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """All texts that a run needs besides its captions, by the key that has them; the text encoder goes."""
    texts = {f"train.{key}": some for key, some in config.train.texts.items()}
    for name, section in sections.items():
        texts |= {f"{_key(name)}.{key}": some for key, some in section.texts.items()}
    embeds = embed_texts(model, texts, speaks=accelerator.is_main_process)
    drop_text_encoders(model)
    return embeds


def _place_decoders(
    sections: Mapping[str, ObjectiveConfig], model: VideoModel, accelerator: Accelerator
) -> None:
    """What losses look at pixels through, where it trains."""
    decoding = {section.decodes for section in sections.values()}
    if "vae" in decoding:
        model.vae.to(accelerator.device, torch.float32)
    if "decoder" in decoding and model.decoder is not None:
        model.decoder.requires_grad_(False).to(accelerator.device, torch.float32)


def _key(name: str) -> str:
    return "adapt" if name == "flow" else f"loss.{name}"


def _check_load(config: DistillConfig, sharded: bool) -> None:
    """Refuse ways to load a teacher that encode clips but train nothing."""
    load, all_train = config.load, config.train.kind == "full"
    wrong = (
        ("cpu_offload", load.cpu_offload is not None, "null; text encoder and VAE leave the device anyway"),
        ("float8_weights", load.float8_weights, "false; gradients need whole weights"),
        ("attention", load.attention == "sage", "another; it computes no gradients"),
        ("dtype", load.dtype != "float32" and all_train, "float32 as all weights train, or train.kind: lora"),
        (
            "dtype",
            load.dtype == "float16" and config.train.mixed_precision != "bf16",
            "another, or train.mixed_precision: bf16, as gradients are not scaled and small ones would be lost",
        ),
    )
    for key, refused, expected in wrong:
        if refused:
            raise ConfigError(f"load.{key}: got {getattr(load, key)!r} to train with, expected {expected}.")
    if sharded and isinstance(config.train.optimizer, MuonConfig):
        raise ConfigError(
            "train.optimizer.kind: muon needs whole matrices, and FSDP divides them; take adamw, or "
            "configs/accelerate/ddp.yaml."
        )


def _load_teacher(config: DistillConfig) -> VideoModel:
    """The teacher in main memory, where text encoder and VAE wait until they are needed."""
    options = config.load.model_copy(update={"attention": "auto"})
    model = load_teacher(config.model, dtype=getattr(torch, config.load.dtype), options=options)
    schedule = config.scale_schedule()
    model.tokens(schedule)
    if not isinstance(model.transformer, ModelMixin):
        raise ConfigError(
            f"model: {config.model} has two transformers and a student is one; name a model with a single one."
        )
    if config.positions == "rescaled":
        model.rescale_positions(schedule.target.frames)
    return model


def _place_networks(
    config: DistillConfig, model: VideoModel, accelerator: Accelerator, adapts: bool
) -> Networks:
    """The teacher where it trains, with the attention that the config asks for, and what learns from it."""
    train, device = config.train, accelerator.device
    if not wants_sharding():
        model.transformer.to(device)
    bf16, mask = train.mixed_precision == "bf16", model.attention_mask
    dtype = torch.bfloat16 if bf16 else getattr(torch, config.load.dtype)
    transformer = cast(ModelMixin, model.transformer)
    set_attention(transformer, config.load.attention, device=device, dtype=dtype, mask=mask, autocast=bf16)
    if isinstance(train, LoraTrainConfig):
        targets = model.lora_targets if train.targets is None else train.targets
        # The additions' first half starts random; the run's seed decides it, and nothing else does.
        with keyed_global(config.seed, "lora"):
            networks = Networks.with_lora(model, train.rank, targets)
    else:
        networks = Networks.to_adapt(model) if adapts else Networks.with_copy(model)
    if train.gradient_checkpointing:
        for network in {networks.student, model.transformer}:
            recompute_blocks(network)
    return networks


def _build_objectives(
    config: DistillConfig,
    sections: Mapping[str, ObjectiveConfig],
    networks: Networks,
    embeds: Mapping[str, Tensor],
    accelerator: Accelerator,
) -> dict[str, Objective]:
    """What is trained on, by name; once all weights are where they stay, what learns beside the student can start."""
    sharded, objectives = wants_sharding(), {}
    # Averaging over processes goes around the student before a critic comes in, whose gradients are averaged apart.
    if not sharded:
        networks.student_forward = accelerator.prepare_model(networks.student)
    for name, section in sections.items():
        prompts = {key: embeds[f"{_key(name)}.{key}"] for key in section.texts}
        objective = section.build(
            _key(name), networks, config.scale_schedule(), prompts, accelerator, config.seed
        )
        objectives[name] = replace(objective, stages=section.stages)
    if sharded:
        networks.divide(accelerator.device)
    for learner in learners_of({_key(name): objective for name, objective in objectives.items()}):
        learner.start(networks)
    return objectives


def _student(
    config: DistillConfig,
    sections: Mapping[str, ObjectiveConfig],
    model: VideoModel,
    upsampler: LatentUpsampler | None,
    made_of: dict[str, Any] | None,
    before: Student | None,
) -> Student:
    file, decoder = config.load.transformer_file, config.load.decoder
    seen = tuple(network for section in sections.values() for network in section.trained_through)
    earlier = () if before is None else before.trained_through
    return Student(
        config.model,
        ScaleWiseFlowMatchScheduler.from_schedule(config.scale_schedule(), upsampler=upsampler),
        positions=config.positions,
        # Not known of the one that it went on from, it is not known of this one.
        trained_through=None if earlier is None else tuple(dict.fromkeys((*earlier, *seen))),
        transformer_file=None if file is None else str(file),
        adapter=config.load.adapter,
        decoder=load_decoder(decoder, model, config.model) if isinstance(decoder, Path) else None,
        made_of=made_of,
    )


def _of_run(config: DistillConfig, adapts: bool) -> tuple[DistillConfig, str]:
    """A run's config, an adaptation's without what belongs to a student, and the name of its file."""
    if not adapts:
        return config, CONFIG_FILE
    changes = {"sample_every": 0, "teacher_samples": None, "backward_simulation": 0.0}
    start = {"start": None, "kept_share": 1.0} if isinstance(config.train, FullTrainConfig) else {}
    train = config.train.model_copy(update=changes | start)
    return config.model_copy(
        update={"loss": LossConfig(), "train": train, "upsampler": None}
    ), ADAPTATION_FILE
