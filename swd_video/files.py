"""Files and folders that appear whole or not at all, through names that nobody can guess.

What is written lies beside its target under a hidden random name until it is complete, and then takes the target's
name in one step. A link that somebody planted under a name of ours is therefore never written through. What a killed
process leaves is told by its name, and `remove_leftovers` deletes it. `alone_in` keeps two runs that would write into
one folder apart.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has no locks that several may share
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".swd-video.lock"
"""A file of this name lies in a folder while a run writes there."""

_DRAFT = ".draft"
# A folder that stepped aside for a newer one.
_OLD = ".old"
_ATTEMPTS = 100
_PROBE_BYTES = 2**20
_STEM_BYTES = 220
# What file systems of clusters and of other machines say where they have no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# What some say of a folder whose names they keep as they like.
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES}


class FolderInUseError(OSError):
    """Another run writes into the folder; the message says which and what to do."""

    def __init__(self, folder: Path, record: str | None = None) -> None:
        """What the lock's file says (a process, its host), where the file alone is the lock."""
        process, host, *_ = *(record or "").splitlines(), "", ""
        who = f", process {process} on {host}" if host else ""
        cure = "" if record is None else f" If that run is over, delete {LOCK_NAME} there."
        super().__init__(
            f"{folder}: another run is writing there{who}. Wait for it to end, or choose another folder.{cure}"
        )


@contextmanager
def alone_in(folder: str | os.PathLike[str], what: str = "--out") -> Iterator[Path]:
    """Keep other runs out of a folder while the block runs; a process that dies lets go by itself.

    Where the file system has no locks, the lock's file alone is one. Then one that a process of another host left as it
    died has to be deleted by hand. What killed runs left unfinished in it is deleted first.

    Args:
        folder: where; it and its parents are made, and go again if the block leaves them empty.
        what: the flag or key that names it.

    Raises:
        FolderInUseError: if another run is in such a block, be it in this process.
        ValueError: as `check_writable`.
    """
    # It takes its time, and most who import this want none.
    from filelock import FileLock, SoftFileLock, Timeout

    folder = Path(folder)
    with _empty_folders_go(folder):
        check_writable(folder, what)
        kind = FileLock if _has_locks(folder) else SoftFileLock
        lock = kind(folder / LOCK_NAME, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise FolderInUseError(folder, None if kind is FileLock else _record(folder)) from None
        try:
            remove_leftovers(folder)
            yield folder
        finally:
            # While it is held: who opened it meanwhile sees that its name is gone. Windows keeps open files.
            with suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()


@contextmanager
def together_in(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Keep those out who want a folder to themselves (`alone_in`) while the block runs, but nobody of this kind.

    What killed runs left unfinished stays, as it may be another's who is at work.

    Args:
        folder: where; it and its parents are made.

    Raises:
        FolderInUseError: if another run has it to itself.
        OSError: if nothing can be written there.
    """
    folder = Path(folder)
    handle = None
    if not _has_locks(folder):
        if (folder / LOCK_NAME).exists():
            raise FolderInUseError(folder, _record(folder))
    elif fcntl is not None:
        handle = _share_lock(folder)
    try:
        yield folder
    finally:
        if fcntl is not None and handle is not None:
            with suppress(OSError):  # only the last of them can have it alone
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(folder / LOCK_NAME)
            os.close(handle)


def _has_locks(folder: Path) -> bool:
    """Whether a folder's file system has locks; it and its parents are made."""
    if fcntl is None:
        return True
    with _unnamed_file_in(folder) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
    return True


def _record(folder: Path) -> str:
    """What the file says that is a folder's lock."""
    try:
        return (folder / LOCK_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _share_lock(folder: Path) -> int:
    assert fcntl is not None
    for _ in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # as `check_writable` of another run took the folder away again
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError | PermissionError):  # as some say for the other
                break
            raise
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # its holder left meanwhile, and took the name away
    raise FolderInUseError(folder)


def check_writable(folder: str | os.PathLike[str], what: str = "--out") -> None:
    """Find out, before anything that takes long, whether files can be written into a folder; nothing of it stays.

    Args:
        folder: where; it need not be there yet.
        what: the flag or key that names it.

    Raises:
        ValueError: if it is no folder, cannot be made, or takes no file of a megabyte.
    """
    try:
        with _empty_folders_go(Path(folder)), _unnamed_file_in(Path(folder)) as file:
            # A full disk still gives names to empty files, and some say so only when they must hold what they took.
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileExistsError):
            reason = "it is no folder"
        cure = "Make room, or choose" if getattr(error, "errno", None) == errno.ENOSPC else "Choose"
        raise ValueError(f"{what} {folder}: cannot be written to: {reason}. {cure} another folder.") from None


@contextmanager
def _empty_folders_go(folder: Path) -> Iterator[None]:
    """Takes a folder and its parents away at the end, as far as they were not there before and are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # the first that is not empty ends it
            for path in missing:
                path.rmdir()


def _unnamed_file_in(folder: Path) -> IO[bytes]:
    for _ in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        # Another run that checks the same folder may have taken it away again.
        with suppress(FileNotFoundError):
            return tempfile.TemporaryFile(dir=folder)
    return tempfile.TemporaryFile(dir=folder)


@contextmanager
def whole_file(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """An empty file to fill, which takes the name `path` when the block ends without an error.

    Args:
        path: where; a file that is there is replaced, a link is replaced and not followed. Its folder must exist.
        durable: wait until the file and its name are on the disk, so that they survive a power cut.

    Raises:
        OSError: if it cannot be written; it names `path`, what was there before is untouched, and nothing is left
            beside it.
    """
    target = Path(path)
    draft = _beside(target, _DRAFT)
    try:
        # O_EXCL follows no link; the mode leaves it to the umask who may read.
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield draft
        _set_mode(draft, mode)
        if durable:
            sync(draft)
        os.replace(draft, target)
        if durable:
            sync(target.parent)
    except OSError as error:
        # A full disk does not say which file it had no room for, and a draft's name tells nobody.
        if error.filename in (None, str(draft)) and error.filename2 is None:
            with suppress(AttributeError):  # PyAV's errors are fixed
                error.filename = str(target)
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text file, as `whole_file` does."""
    with whole_file(path, durable=durable) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def plain_json(value: object) -> Any:
    """A value as every reader of JSON takes it: what has `as_dict` an object; null what is NaN or infinite."""
    if hasattr(value, "as_dict"):
        return plain_json(value.as_dict())
    if isinstance(value, Mapping):
        return {str(key): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike[str], value: Any, *, durable: bool = False) -> None:
    """Write a value as indented JSON, as `whole_file` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def write_beside_runs(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole into a folder in which a run may begin, which clears away unfinished files."""
    for attempt in range(_ATTEMPTS):
        try:
            write_text(path, text, durable=True)
            return
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1 or not Path(path).parent.is_dir():
                raise


def expand_home(name: str | os.PathLike[str]) -> Path:
    """A path that people wrote: `~` and `~name` stand for a home, where there is such a one, else for themselves."""
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def with_homes(value: Any) -> Any:
    """A value that people gave, with its path or its tuple of paths as `expand_home` reads them; any other as it is."""
    if isinstance(value, tuple):
        return tuple(map(with_homes, value))
    return expand_home(value) if isinstance(value, Path) else value


def path_from(folder: Path, file: Path) -> str:
    """The way from a folder to a file; from the root where there is none, as between drives of Windows.

    It keeps the names of links as long as it arrives: `..` out of a link does not lead to where the link lies.
    """
    there, here = file.resolve(), folder.resolve()
    try:
        named = Path(os.path.relpath(file, folder))
        return (named if (here / named).resolve() == there else Path(os.path.relpath(there, here))).as_posix()
    except ValueError:
        return there.as_posix()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(folder: Path, *, durable: bool = False) -> Iterator[Path]:
    """A draft to fill, which takes the folder's name when the block ends without an error.

    One writer at a time: what another left unfinished beside the folder is taken for that of a killed one and deleted.

    Args:
        folder: where; one that is there stays until the draft is finished, then is replaced. Parents are made.
        durable: wait until everything is on the disk, so that it survives a power cut.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove(folder.parent, _DRAFT, _stem(folder))
    draft = _beside(folder, _DRAFT)
    draft.mkdir()
    mode = stat.S_IMODE(draft.stat().st_mode) & 0o666
    try:
        yield draft
        for path in draft.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _set_mode(path, mode)
        if durable:
            for path in (*draft.rglob("*"), draft):
                sync(path)
        if folder.exists():
            # A folder in use cannot be replaced in one step: the old one steps aside first.
            os.replace(folder, _beside(folder, _OLD))
        os.replace(draft, folder)
        if durable:
            sync(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    # Last, as a writer that was killed between two renames left the only older version there.
    _remove(folder.parent, _OLD, _stem(folder))


def remove_leftovers(folder: Path) -> None:
    """Delete the drafts that killed writers left in a folder; call it where nobody else writes there."""
    _remove(folder, _DRAFT)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk; as far as the file system can, of a folder."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # Windows keeps names by itself, and opens no folders
    try:
        handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not (is_folder and error.errno in _NO_SYNC):
            raise


def _set_mode(path: Path, mode: int) -> None:
    """Let those read a file who should: safetensors puts one in the draft's place that its owner alone may read."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with suppress(OSError):  # file systems without modes, and of other machines, refuse
            path.chmod(mode)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{_stem(target)}.{secrets.token_hex(8)}{suffix}")


def _stem(target: Path) -> str:
    """As much of the target's name as leaves room for the rest: file systems take 255 bytes."""
    return target.name.encode("utf-8", "surrogateescape")[:_STEM_BYTES].decode("utf-8", "ignore")


def _remove(folder: Path, suffix: str, stem: str | None = None) -> None:
    """Delete what `_beside` made in a folder: of one stem, as names that only begin alike are others', or of any."""
    middle = ".+" if stem is None else re.escape(stem)
    made_here = re.compile(rf"\.{middle}\.[0-9a-f]{{16}}{re.escape(suffix)}")
    for entry in folder.iterdir():
        if not made_here.fullmatch(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
