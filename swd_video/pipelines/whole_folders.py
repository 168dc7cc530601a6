"""Folders that appear whole or not at all, and leave nothing of an attempt that was killed."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DRAFT, _OLD = ".draft", ".old"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft to fill, which takes the folder's name when the block ends without an error.

    One writer at a time: what another left unfinished beside the folder is taken for that of a killed one and deleted.

    Args:
        folder: where; one that is there stays until the draft is finished, then is replaced. Parents are made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder, _DRAFT)
    draft = _beside(folder, _DRAFT)
    try:
        draft.chmod(0o755)  # mkdtemp's are for the owner alone
        yield draft
        _replace(folder, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    # Last, as a writer that was killed between two renames left the only older version there.
    _remove_leftovers(folder, _OLD)


def _replace(folder: Path, draft: Path) -> None:
    if not folder.exists():
        os.replace(draft, folder)
        return
    # A folder in use cannot be replaced in one step: the old one steps aside first.
    old = _beside(folder, _OLD)
    os.replace(folder, old / folder.name)
    os.replace(draft, folder)


def _beside(folder: Path, suffix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=suffix, dir=folder.parent))


def _remove_leftovers(folder: Path, suffix: str) -> None:
    """Delete what `_beside` made for this very folder; names that only begin alike are others'."""
    made_here = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}{re.escape(suffix)}")
    for entry in folder.parent.iterdir():
        if made_here.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
