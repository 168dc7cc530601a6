"""The training clips of a config: encoded where that is missing, and checked against what is to be trained."""

from pathlib import Path

from accelerate import Accelerator

from swd_video.config import ConfigError
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.encode import encode_manifest
from swd_video.data.latent_cache import INDEX_NAME, CacheError, LatentCache, is_finished
from swd_video.data.latent_cache_filling import progress_bar
from swd_video.data.manifest import clips_digest, read_manifest
from swd_video.data.sections import DataConfig
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_encoders
from swd_video.models.loading import resolve_model_path
from swd_video.training.idle_parts import all_parts, moved_to

_CURE = "Repair them and run `swd-video encode` on this config with --retry-skipped."


def open_clips(
    data: DataConfig, model_name: str, schedule: ScaleSchedule, model: VideoModel, accelerator: Accelerator
) -> LatentCache:
    """The clips of a config, encoded by the first process where that is missing.

    Raises:
        ConfigError: if the cache is of other clips, another model or other grids, or there is none.
    """
    encoders = fingerprint_encoders(resolve_model_path(model_name))
    if data.manifest is not None and accelerator.is_main_process and not is_finished(data.cache):
        with moved_to(accelerator.device, *all_parts(model)):
            _encode(data, model_name, schedule, model, encoders)
    accelerator.wait_for_everyone()
    try:
        clips = LatentCache(data.cache)
    except CacheError as error:
        hint = "" if data.manifest is not None else " Or name the clips in data.manifest."
        raise ConfigError(f"data.cache: {error}{hint}") from None
    _check_clips(data, model_name, schedule, clips, encoders)
    return clips


def _encode(
    data: DataConfig, model_name: str, schedule: ScaleSchedule, model: VideoModel, encoders: str
) -> None:
    assert data.manifest is not None
    manifest = read_manifest(data.manifest)
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
        )


def _check_clips(
    data: DataConfig, model_name: str, schedule: ScaleSchedule, clips: LatentCache, encoders: str
) -> None:
    cache, index = data.cache, clips.index
    # Names say less than weights: compared only where a fingerprint is missing, as in old caches of hub models.
    fingerprinted = bool(encoders and index["encoders"])
    here, there = (encoders, index["encoders"]) if fingerprinted else (model_name, index["model"])
    if here != there:
        raise ConfigError(
            f"data.cache: {cache} was encoded by another VAE or text encoder ({index['model']}) than that of "
            f"model {model_name}. Give data.cache another folder, or delete this one to encode again."
        )
    manifest = data.manifest
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
        raise ConfigError(
            f"data.cache: {cache} holds no clip: none could be read, and its {INDEX_NAME} says why. {_CURE}"
        )
