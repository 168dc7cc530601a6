"""Hashes of model folders: whether a finished clip or an encoded cache is still of the model it is said to be of."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from swd_video.files import hash_file
from swd_video.models.checkpoints import PICKLED_SUFFIXES
from swd_video.models.loading import DECODER_FILE_NAME, model_folder

WHOLE_FILE_BYTES = 256 * 2**20
"""Files up to this size are hashed whole; of larger ones, evenly spaced samples."""

# In this order, so that models without a second text encoder keep their fingerprints.
_ENCODER_PARTS = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
# Changes nothing of what a model makes: where it came from, by which versions, what a student is made of, and how many
# stages a draft of it needs.
_BOOKKEEPING = {
    "_name_or_path",
    "_diffusers_version",
    "transformers_version",
    "is_local",
    "local_files_only",
    "made_of",
    "draft_stages",
}
_SAMPLES = 256
_SAMPLE_BYTES = 2**16
# What a folder may hold besides the model, without changing what the model makes: pickles are never opened. Drafts
# (`swd_video.files`) start with a dot.
_IGNORED_SUFFIXES = {".md", ".png", ".jpg", ".gif", ".webp", ".mp4", ".log", *PICKLED_SUFFIXES}


def fingerprint_folders(folders: Iterable[Path], files: Iterable[Path] = ()) -> str:
    """Return one hash for the models in some folders: every file's relative path, size and bytes.

    Pictures, clips, logs, Markdown, pickled weights and names that start with a dot do not count, nor does the decoder
    that a student carries, through which the same latents are shown, nor what loading and saving rewrites in a config.
    A file above `WHOLE_FILE_BYTES` counts by its size, its first and last bytes and 256 evenly spaced blocks of 64 KiB:
    training moves every weight, so this tells checkpoints apart without reading tens of gigabytes each time.

    Args:
        folders: Model folders; their order counts, where they lie does not.
        files: What replaces parts of them; names do not count.

    Raises:
        ValueError: If one of the files is not there.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in _files_below(folder):
            _add_file(digest, path, folder)
        digest.update(b"\n")
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file; check the path.")
        digest.update(f"{_fingerprint_file(file)}\n".encode())
    return digest.hexdigest()


def fingerprint_encoders(name_or_path: str | os.PathLike[str], adapter: str | None = None) -> str:
    """Return a hash of a pipeline's VAE, text encoders and tokenizers, taken as in `fingerprint_folders`.

    The frame rate and prompt length in `video_spec.json` are as much part of an encoding and count too, and so is an
    adapter from outside of the package, which may say others.

    Args:
        name_or_path: Of a pipeline. A hub name stands for the files that loading it would use, which are downloaded
            where they are missing; so a folder with a copy of them has the same hash.
        adapter: See `LoadOptions`.

    Raises:
        ValueError: If there is no such model, or it cannot be downloaded.
    """
    files = _fingerprint_parts(name_or_path, *_ENCODER_PARTS, "video_spec.json")
    return files if adapter is None else hashlib.sha256(f"{files}\n{adapter}".encode()).hexdigest()


def fingerprint_vae(name_or_path: str | os.PathLike[str]) -> str:
    """Return a hash of a pipeline's VAE alone, which is all that a decoder has to fit; see `fingerprint_encoders`."""
    return _fingerprint_parts(name_or_path, "vae")


def _fingerprint_parts(name_or_path: str | os.PathLike[str], *parts: str) -> str:
    folder = model_folder(os.fspath(name_or_path))
    digest = hashlib.sha256()
    for part in parts:
        for path in (folder / part, *_files_below(folder / part)):
            _add_file(digest, path, folder)
    return digest.hexdigest()


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 over all weights of some networks."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _files_below(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """All files, in order; those behind a link to another folder are as much part of the model.

    A link to a folder on the way there, `above`, leads to nothing new.
    """
    here, found = folder.resolve(), list[Path]()
    for path in folder.iterdir() if folder.is_dir() and here not in above else ():
        found += _files_below(path, above | {here}) if path.is_dir() else [path]
    return sorted(found)


def _add_file(digest: "hashlib._Hash", path: Path, folder: Path) -> None:
    relative = path.relative_to(folder)
    hidden = any(part.startswith(".") for part in relative.parts)
    hidden = hidden or relative.as_posix() == DECODER_FILE_NAME
    if not hidden and path.suffix.lower() not in _IGNORED_SUFFIXES and path.is_file():
        digest.update(f"{relative.as_posix()}\n{_fingerprint_file(path)}\n".encode())


def _fingerprint_file(path: Path) -> str:
    if path.suffix == ".json":
        return _fingerprint_json(path)
    size = path.stat().st_size
    if size <= WHOLE_FILE_BYTES:
        return hash_file(path)
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        for sample in range(_SAMPLES):
            file.seek(sample * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _fingerprint_json(path: Path) -> str:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return hash_file(path)
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key not in _BOOKKEEPING}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
