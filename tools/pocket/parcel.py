"""Parcels: a few files of a folder packed into small pieces, to be handed on, and back."""

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from swd_video.files import whole_file, write_json

PIECE_BYTES = 15 * 2**20
MOST_BYTES = 60 * 2**20
_SUFFIX = ".parcel.json"


def pack(
    source: Path,
    groups: Sequence[Sequence[str]],
    target: Path,
    name: str,
    about: dict[str, Any],
    *,
    piece_bytes: int = PIECE_BYTES,
    most_bytes: int = MOST_BYTES,
) -> list[str]:
    """Write `NAME.parcel.json` and `NAME.00`, `NAME.01`, ... into `target`; older pieces of that name go.

    Args:
        source: the folder.
        groups: files and folders in it, those together that are of no use alone, the most important ones first.
        target: where the parcel comes to lie.
        name: of the parcel.
        about: what else its JSON says.
        piece_bytes: of the largest piece.
        most_bytes: of all together; groups that do not fit are left out.

    Returns:
        The paths that were left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(f"{name}.[0-9][0-9]"):
        old.unlink()
    inside: list[str] = []
    size = 0
    for group in groups:
        length = sum(file.stat().st_size for path in group for file in _files(source / path))
        if size + length <= most_bytes:
            inside += group
            size += length
    pieces: dict[str, str] = {}
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for path in inside:
                archive.add(source / path, path)
        whole.seek(0)
        while piece := whole.read(piece_bytes):
            piece_name = f"{name}.{len(pieces):02d}"
            with whole_file(target / piece_name) as draft:
                draft.write_bytes(piece)
            pieces[piece_name] = hashlib.sha256(piece).hexdigest()
    # Last: a parcel that was cut off on its way has none.
    write_json(target / f"{name}{_SUFFIX}", {"pieces": pieces, "paths": inside, **about})
    return [path for group in groups for path in group if path not in inside]


def unpack(source: Path, target: Path) -> list[dict[str, Any]]:
    """Lay what all parcels of a folder hold into another one; what is there is replaced.

    Returns:
        What the JSON of each says.

    Raises:
        ValueError: if there is no parcel, or one whose pieces are missing or changed.
    """
    headers = sorted(source.glob(f"*{_SUFFIX}"))
    if not headers:
        raise ValueError(f"{source}: holds no parcel (no NAME{_SUFFIX}); give a folder that --deliver wrote.")
    found = []
    for path in headers:
        header = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryFile() as whole:
            for name, digest in header["pieces"].items():
                piece = (source / name).read_bytes() if (source / name).is_file() else b""
                if hashlib.sha256(piece).hexdigest() != digest:
                    raise ValueError(f"{source / name}: is missing or not what was packed; copy it again.")
                whole.write(piece)
            whole.seek(0)
            with tarfile.open(fileobj=whole) as archive:
                archive.extractall(target, filter="data")
        found.append(header)
    return found


def halve(folder: Path) -> None:
    """Keep the weights in a folder in float16, as they are handed on, so that it makes no difference where they are."""
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        halved = {
            name: value.half() if value.is_floating_point() else value for name, value in weights.items()
        }
        with whole_file(path) as draft:
            save_file(halved, draft, said)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
