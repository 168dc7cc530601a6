"""What makes a student: written down when its run begins, compared when it goes on, kept with the student."""

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from swd_video.config import ConfigError, flatten, load_saved
from swd_video.data.latent_cache import read_index
from swd_video.models.fingerprint import fingerprint_encoders, fingerprint_folders
from swd_video.models.loading import model_folder, resolve_model_path
from swd_video.training.config import DistillConfig
from swd_video.training.start import digest_of_start

CONFIG_FILE, ADAPTATION_FILE, RECORD_FILE = "config.yaml", "adapt.yaml", "made_of.json"

# What may change between a start and a restart: it moves no weight of any step both would take, except that sums in
# another order (`micro_batch_size`) can round otherwise.
_FREE_KEYS = {
    "architecture",
    "data.encode_batch_size",
    "train.steps",
    "train.micro_batch_size",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_prompts",
    "train.samples_per_prompt",
    "train.teacher_samples",
    "train.collapse_share",
    "train.log_every",
    "train.gradient_checkpointing",
    "load.decoder",
    "train.kept_share",
}

# Where things lie, which digests and a student's `base_model` stand for.
_PLACES = {
    "model",
    "data.manifest",
    "data.cache",
    "upsampler.file",
    "load.transformer_file",
    "load.decoder",
    "train.start",
}

_LONGEST_SHOWN = 120

# Of every run; compared where both sides know them.
_NAMES = {
    "teacher": "teacher (model, load.transformer_file)",
    "vae": "VAE or text encoder (model)",
    "clips": "clips (data.manifest)",
    "latents": "latents (data.cache)",
    "upsampler": "upsampler (upsampler.file)",
    "started_from": "start (train.start)",
    "imitated": "clips to imitate (train.imitate)",
    "files": "file that a loss reads",
    "trained_through": "network that is looked through (encoder)",
}


def digests_of_model(config: DistillConfig) -> dict[str, Any]:
    """Digests of a teacher's files, wherever they lie; a hub name stands for the files that loading it uses.

    Raises:
        ValueError: if there is no such model.
    """
    path, file = resolve_model_path(config.model), config.load.transformer_file
    sections = config.loss.objectives.values()
    for name, section in config.loss.objectives.items():
        if gone := [file for file in section.files if not file.is_file()]:
            raise ValueError(f"loss.{name}: {gone[0]}: no such file; check the path.")
    read = [file for section in sections for file in section.files]
    networks = [network for section in sections for network in section.trained_through]
    # Those of a hub, and of a folder that is gone, are known by their names alone, which the settings have.
    seen = [asdict(network) for network in networks] if all(one.fingerprint for one in networks) else []
    if any(section.decodes == "decoder" for section in sections) and isinstance(config.load.decoder, Path):
        read.append(config.load.decoder)
    start = digest_of_start(config.train)
    parts = (
        [] if file is not None else [model_folder(path) / "transformer", model_folder(path) / "transformer_2"]
    )
    return {
        "teacher": fingerprint_folders(parts, [] if file is None else [file]),
        "vae": fingerprint_encoders(path),
        **({"files": fingerprint_folders([], read)} if read else {}),
        **({"trained_through": seen} if seen else {}),
        **({} if start is None else {"started_from": start}),
    }


def digests_of_clips(index: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of the clips' names and captions and of their latents; caches of older versions lack the second."""
    return {"clips": index["clips_digest"], "latents": index.get("digest")}


def settings_of(config: DistillConfig) -> dict[str, Any]:
    """The config by dotted keys, but for where things lie."""
    return {key: value for key, value in flatten(config).items() if key not in _PLACES}


def known_now(digest_model: Callable[[], dict[str, Any]], cache: str) -> dict[str, Any]:
    """What a run would be made of, as far as that is known without loading anything."""
    known: dict[str, Any] = {}
    with suppress(ValueError):  # of a finished run, the teacher may be gone
        known |= digest_model()
    with suppress(ValueError):
        known |= digests_of_clips(read_index(cache))
    return known


def check_same_run(
    config: BaseModel, folder: Path, config_file: str, free_keys: Collection[str] = _FREE_KEYS
) -> list[str]:
    """Refuse a folder that holds the run of another config; its free keys, and those below them, may change.

    Returns:
        The free keys that did change.

    Raises:
        ConfigError: naming the key that differs.
    """
    for other in {CONFIG_FILE, ADAPTATION_FILE} - {config_file}:
        if (folder / other).is_file():
            raise ConfigError(f"{folder}: holds the run of another command ({other}); choose another --out.")
    path = folder / config_file
    if not path.is_file():
        return []
    before, now = flatten(load_saved(type(config), path)), flatten(config)
    # The same one first, whenever it is asked.
    changed = [key for key in dict.fromkeys((*now, *before)) if before.get(key) != now.get(key)]
    for key in changed:
        if not any(key == free or key.startswith(f"{free}.") for free in free_keys):
            raise ConfigError(
                f"{folder}: holds a run with another {key} ({_as_written(before.get(key))} there, "
                f"{_as_written(now.get(key))} now). "
                "Choose another --out, or delete the folder to start anew."
            )
    return changed


def _as_written(value: Any) -> str:
    """A value as its file says it: null, not None."""
    return json.dumps(value, ensure_ascii=False)


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first key that two records give different values; where one of them knows none it is not compared."""
    for key, value in now.items():
        if value is not None and there.get(key) not in (None, value):
            return key
    return None


def check_record(folder: Path, now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose teacher, clips or upsampler are others by now.

    A folder without a record, or that does not exist, is not compared.

    Raises:
        ConfigError: naming what differs.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise ConfigError(
            f"{path}: is damaged; delete it to go on without comparing what the run is made of."
        )
    check_made_of(folder, there, now)


def check_made_of(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`check_record`, with what the folder's run was made of."""
    key = difference(there, {key: value for key, value in now.items() if key in _NAMES})
    if key is not None:
        raise ConfigError(
            f"{folder}: holds a run with another {_NAMES[key]}: {_brief(there[key])} there, {_brief(now[key])} now. "
            "Choose another --out, or delete the folder to start anew."
        )


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
