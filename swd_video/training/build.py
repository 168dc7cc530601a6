"""Config to objects: the only part of training that sees a whole config."""

import json
import sys
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator, PartialState
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from swd_video.config.load import ConfigError, dump_config, flatten, load_config
from swd_video.config.schema import DistillConfig, LoraTrainConfig, MuonConfig
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_seed
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.encode import encode_manifest
from swd_video.data.latent_cache import INDEX_NAME, CacheError, LatentCache, read_index
from swd_video.data.manifest import clips_digest, read_manifest
from swd_video.models.attention import set_attention
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_encoders
from swd_video.models.loading import LoadOptions, load_model, resolve_model_path
from swd_video.models.recomputation import recompute_blocks
from swd_video.training.build_objectives import build_objectives, pixel_encoders
from swd_video.training.checkpoint import CheckpointFolder
from swd_video.training.clip_order import ClipOrder
from swd_video.training.encoders import all_parts, drop_text_encoders, keep_vae, moved_to
from swd_video.training.loop import SUMMARY_FILE, LoopSettings, Run, TrainSummary, write_text
from swd_video.training.objectives import WeightedSum
from swd_video.training.optimizers import build_optimizers
from swd_video.training.precision import bf16_slowdown
from swd_video.training.roles import FullRoles, LoraRoles, Roles
from swd_video.training.samples import SampleWriter
from swd_video.training.step import Stepper, StepSettings

CONFIG_FILE = "config.yaml"

# What may change between a start and a restart: it moves no weight of any step both would take.
_FREE_KEYS = {
    "data.encode_batch_size",
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_prompts",
    "train.log_every",
    "train.gradient_checkpointing",
}


_SLOW_BF16 = 2.0


def settle_precision(config: DistillConfig) -> DistillConfig:
    """The config with `mixed_precision: auto` replaced by what this process's device does well."""
    if config.train.mixed_precision != "auto":
        return config
    fast = bf16_slowdown(PartialState().device) <= _SLOW_BF16
    train = config.train.model_copy(update={"mixed_precision": "bf16" if fast else None})
    return config.model_copy(update={"train": train})


def finished_summary(config: DistillConfig, folder: Path) -> TrainSummary | None:
    """What an earlier run of the same config left in `folder`, if it came to its end.

    Raises:
        ConfigError: if the folder holds a run of another config.
    """
    _check_same_run(config, folder)
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    summary = TrainSummary(**json.loads(path.read_text(encoding="utf-8")))
    return summary if summary.steps == config.train.steps else None


def build_run(config: DistillConfig, folder: Path) -> Run:
    """Load the teacher, encode clips where that is missing, and put all parts of a run together.

    Args:
        config: all of it, after `settle_precision`; saved as `config.yaml` in the folder.
        folder: of the run; made where it is missing. A run that was stopped there goes on.

    Raises:
        ValueError: for input that cannot work, in one line.
    """
    _check_same_run(config, folder)
    _check_load(config)
    folder.mkdir(parents=True, exist_ok=True)
    # bfloat16 is autocast where the networks are called (step.py), not by accelerate around their outside.
    accelerator = Accelerator(mixed_precision="no", log_with="tensorboard", project_dir=str(folder))
    if accelerator.is_main_process:
        write_text(folder / CONFIG_FILE, dump_config(config))
    _warn_of_slow_bf16(config, accelerator)
    model = _load(config)
    schedule = config.scale_schedule()
    _check_grids(schedule, model)
    if not isinstance(model.transformer, ModelMixin):
        raise ConfigError(
            f"model: {config.model} has two transformers and a student is one; name a model with a single one."
        )
    if config.positions == "rescaled":
        model.rescale_positions(schedule.target.frames)
    clips = _open_clips(config, schedule, model, accelerator)
    prompt_embeds = (
        model.encode_prompt(list(config.train.sample_prompts)) if config.train.sample_every else None
    )
    dmd = config.loss.dmd
    negative_embeds = None if dmd is None else model.encode_prompt([dmd.negative_prompt])
    drop_text_encoders(model)
    _place(config, model, accelerator.device)
    encoders = pixel_encoders(config.loss.mmd)
    if encoders:
        keep_vae(model, accelerator.device)
    roles = _build_roles(config, model)
    return Run(
        folder=folder,
        base_model=config.model,
        positions=config.positions,
        encoders=encoders,
        stepper=_build_stepper(config, schedule, clips, roles, negative_embeds, accelerator),
        checkpoints=CheckpointFolder(folder / "checkpoints", config.train.keep_checkpoints),
        samples=_build_samples(config, schedule, roles, prompt_embeds, folder),
        settings=LoopSettings(
            steps=config.train.steps,
            checkpoint_every=config.train.checkpoint_every,
            sample_every=config.train.sample_every,
            log_every=config.train.log_every,
            average=config.train.ema_decay > 0,
        ),
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


def _load(config: DistillConfig) -> VideoModel:
    """The teacher in main memory, where text encoder and VAE wait until they are needed."""
    options = LoadOptions(**config.load.model_dump(exclude={"dtype", "attention"}))
    return load_model(config.model, dtype=getattr(torch, config.load.dtype), options=options)


def _place(config: DistillConfig, model: VideoModel, device: torch.device) -> None:
    """Put the network where it trains, with the attention that the config asks for."""
    model.transformer.to(device)
    dtype = torch.bfloat16 if config.train.mixed_precision == "bf16" else getattr(torch, config.load.dtype)
    attention, mask = config.load.attention, model.attention_mask
    set_attention(cast(ModelMixin, model.transformer), attention, device=device, dtype=dtype, mask=mask)


def _check_same_run(config: DistillConfig, folder: Path) -> None:
    path = folder / CONFIG_FILE
    if not path.is_file():
        return
    before, now = flatten(load_config(path)), flatten(config)
    for key in before.keys() | now.keys():
        if key not in _FREE_KEYS and before.get(key) != now.get(key):
            raise ConfigError(
                f"{folder}: holds a run with another {key} ({before.get(key)!r} there, {now.get(key)!r} now). "
                "Choose another --out, or delete the folder to start anew."
            )


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


def _check_grids(schedule: ScaleSchedule, model: VideoModel) -> None:
    for index, grid in enumerate(schedule.grids):
        try:
            grid.tokens(model.spec.compression.patch)
        except ValueError as error:
            raise ConfigError(f"schedule.stages[{index}]: {error}") from None


def _open_clips(
    config: DistillConfig, schedule: ScaleSchedule, model: VideoModel, accelerator: Accelerator
) -> LatentCache:
    data = config.data
    encoders = fingerprint_encoders(resolve_model_path(config.model))
    if data.manifest is not None and accelerator.is_main_process and not _is_complete(data.cache):
        with moved_to(accelerator.device, *all_parts(model)):
            _encode(config, schedule, model, encoders)
    accelerator.wait_for_everyone()
    try:
        clips = LatentCache(data.cache)
    except CacheError as error:
        hint = "" if data.manifest is not None else " Or name the clips in data.manifest."
        raise ConfigError(f"data.cache: {error}{hint}") from None
    _check_clips(config, schedule, clips, encoders)
    return clips


def _is_complete(cache: str) -> bool:
    return (Path(cache) / INDEX_NAME).is_file() and bool(read_index(cache)["complete"])


def _encode(config: DistillConfig, schedule: ScaleSchedule, model: VideoModel, encoders: str) -> None:
    data = config.data
    assert data.manifest is not None
    manifest = read_manifest(data.manifest)
    extra = [LatentSize.parse(text) for text in data.extra_grids]
    with tqdm(total=len(manifest), desc="encode", unit="clip", file=sys.stderr) as bar:
        report = encode_manifest(
            manifest,
            model,
            [*extra, *schedule.distinct_grids],
            data.cache,
            model_name=config.model,
            encoders=encoders,
            batch_size=data.encode_batch_size,
            progress=lambda done, _: bar.update(done - bar.n),
            on_skip=lambda clip: bar.write(f"skipped {clip.path}: {clip.reason}", file=sys.stderr),
        )
    if report.skipped:
        print(
            f"{len(report.skipped)} of {report.clips} clips could not be encoded; their paths and reasons are "
            f"in {Path(data.cache) / INDEX_NAME}.",
            file=sys.stderr,
        )


def _check_clips(config: DistillConfig, schedule: ScaleSchedule, clips: LatentCache, encoders: str) -> None:
    cache, index = config.data.cache, clips.index
    # Names say less than weights: compared only where a fingerprint is missing (models from a hub).
    fingerprinted = bool(encoders and index["encoders"])
    here, there = (encoders, index["encoders"]) if fingerprinted else (config.model, index["model"])
    if here != there:
        raise ConfigError(
            f"data.cache: {cache} was encoded by another VAE or text encoder ({index['model']}) than that of "
            f"model {config.model}. Give data.cache another folder, or delete this one to encode again."
        )
    manifest = config.data.manifest
    if manifest is not None and Path(manifest).is_file():
        digest = clips_digest(read_manifest(manifest))
        if digest != index["clips_digest"]:
            raise ConfigError(
                f"data.cache: {cache} holds other clips than {manifest}. Give data.cache another folder, or "
                "delete this one to encode again."
            )
    missing = [str(grid) for grid in schedule.distinct_grids if grid not in clips.grids]
    if missing:
        raise ConfigError(
            f"data.cache: {cache} has no latents on {', '.join(missing)}, it has "
            f"{', '.join(map(str, clips.grids))}. Give data.cache another folder, to encode for this schedule."
        )
    if len(clips) == 0:
        raise ConfigError(f"data.cache: {cache} holds no clip: none could be read.")


def _build_roles(config: DistillConfig, model: VideoModel) -> Roles:
    train = config.train
    if isinstance(train, LoraTrainConfig):
        targets = model.lora_targets if train.targets is None else train.targets
        # The additions' first half starts random; the run's seed decides it, and nothing else does.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(keyed_seed(config.seed, "lora"))
            roles: Roles = LoraRoles(model, train.rank, targets)
    else:
        roles = FullRoles(model)
    if train.gradient_checkpointing:
        for network in {roles.student, model.transformer}:
            recompute_blocks(network)
    return roles


def _build_stepper(
    config: DistillConfig,
    schedule: ScaleSchedule,
    clips: LatentCache,
    roles: Roles,
    negative_embeds: Tensor | None,
    accelerator: Accelerator,
) -> Stepper:
    train = config.train
    parameters = roles.trainable_parameters()
    roles.student_forward = accelerator.prepare_model(roles.student)
    optimizers = [accelerator.prepare_optimizer(o) for o in build_optimizers(parameters, train)]
    objectives, opponents = build_objectives(
        config.loss, schedule, roles, negative_embeds, accelerator, config.seed
    )
    return Stepper(
        roles=roles,
        objective=WeightedSum(objectives),
        schedule=schedule,
        clips=clips,
        order=_build_order(config, clips, accelerator),
        optimizers=optimizers,
        ema=EMAModel(list(parameters.values()), decay=train.ema_decay, foreach=True),
        accelerator=accelerator,
        settings=StepSettings(
            seed=config.seed,
            batch_size=train.batch_size,
            grad_accum=train.grad_accum,
            stage_weights=train.stage_weights or (1.0,) * len(schedule),
            lr_warmup_steps=train.lr_warmup_steps,
            max_grad_norm=train.max_grad_norm,
            bf16=train.mixed_precision == "bf16",
            own_inputs=train.own_inputs,
        ),
        opponents=opponents,
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


def _build_samples(
    config: DistillConfig, schedule: ScaleSchedule, roles: Roles, prompt_embeds: Tensor | None, folder: Path
) -> SampleWriter | None:
    if prompt_embeds is None:
        return None
    prompts = config.train.sample_prompts
    return SampleWriter(roles, schedule, prompts, prompt_embeds, folder / "samples", config.seed)
