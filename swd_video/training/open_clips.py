"""The training clips of a config: encoded where that is missing, and checked against what is to be trained."""

import sys
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from swd_video.config import ConfigError
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.encode import encode_manifest
from swd_video.data.latent_cache import (
    INDEX_NAME,
    CacheError,
    LatentCache,
    is_finished,
    of_same_encoders,
    read_index,
)
from swd_video.data.latent_cache_filling import progress_bar
from swd_video.data.manifest import clips_digest, read_manifest
from swd_video.data.sections import DataConfig
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_encoders
from swd_video.models.loading import resolve_model_path
from swd_video.training.idle_parts import moved_to

_CURE = "Repair them and run `swd-video encode` on this config with --retry-skipped."


def check_cache_apart(data: DataConfig, out: Path) -> None:
    """Refuse a cache in the folder of the run itself, where each would take the other's files for its own.

    Raises:
        ConfigError: if it is there.
    """
    if Path(data.cache).resolve() == out.resolve():
        raise ConfigError(
            f"data.cache: {data.cache} is the folder of the run, --out, as well; give each its own."
        )


def open_clips(
    data: DataConfig,
    model_name: str,
    adapter: str | None,
    schedule: ScaleSchedule,
    model: VideoModel,
    accelerator: Accelerator,
) -> LatentCache:
    """The clips of a config, encoded by the first process where that is missing.

    Raises:
        ConfigError: if the cache is of other clips, another model or other grids, or there is none.
    """
    encoders = fingerprint_encoders(resolve_model_path(model_name), adapter)
    if data.manifest is not None and accelerator.is_main_process and not is_finished(data.cache):
        # All that encoding clips and captions may look at.
        parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
        with moved_to(accelerator.device, *parts):
            _encode(data, model_name, schedule, model, encoders)
    accelerator.wait_for_everyone()
    try:
        clips = LatentCache(data.cache)
    except CacheError as error:
        none = data.manifest is None and not (Path(data.cache) / INDEX_NAME).exists()
        hint = " Name a folder that has one, or the clips in data.manifest." if none else ""
        raise ConfigError(f"data.cache: {error}{hint}") from None
    speaks = accelerator.is_main_process
    _check_clips(data, model_name, model, schedule, clips, encoders, speaks=speaks)
    return clips


def _encode(
    data: DataConfig, model_name: str, schedule: ScaleSchedule, model: VideoModel, encoders: str
) -> None:
    assert data.manifest is not None
    manifest = read_manifest(data.manifest)
    # What `encode` began in another form goes on in that.
    begun = read_index(data.cache) if (Path(data.cache) / INDEX_NAME).is_file() else {}
    form = {key: begun[key] for key in ("dtype", "shard_size") if key in begun}
    with progress_bar("encode") as (progress, say):
        encode_manifest(
            manifest,
            lambda: model,
            [*data.extra_latent_grids, *schedule.distinct_grids],
            data.cache,
            model_name=model_name,
            encoders=encoders,
            batch_size=data.encode_batch_size,
            progress=progress,
            say=say,
            **form,
        )


def _check_clips(
    data: DataConfig,
    model_name: str,
    model: VideoModel,
    schedule: ScaleSchedule,
    clips: LatentCache,
    encoders: str,
    *,
    speaks: bool,
) -> None:
    cache, index = data.cache, clips.index
    if not of_same_encoders(index, model_name, encoders):
        raise ConfigError(
            f"data.cache: {cache} was encoded by another VAE, text encoder or adapter ({index['model']}) than "
            f"that of model {model_name}. Give data.cache another folder, or delete this one to encode again."
        )
    if index["fps"] != model.spec.fps:  # as the same adapter may say otherwise than before
        raise ConfigError(
            f"data.cache: {cache} holds clips of {index['fps']:g} frames a second, but {model_name} makes "
            f"{model.spec.fps:g}. Give data.cache another folder, or delete this one to encode again."
        )
    manifest = data.manifest
    if manifest is not None and not Path(manifest).is_file():
        if speaks:
            print(
                f"note: data.manifest: {manifest} is not there, so nobody knows whether {cache} holds its clips.",
                file=sys.stderr,
            )
    elif manifest is not None and clips_digest(read_manifest(manifest)) != index["clips_digest"]:
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
        raise ConfigError(
            f"data.cache: {cache} holds no clip: none could be read, and its {INDEX_NAME} says why. {_CURE}"
        )
