"""Files and folders that are there whole or not at all, whatever happens to their writers."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swd_video.files import (
    LOCK_NAME,
    FolderInUseError,
    alone_in,
    check_writable,
    remove_leftovers,
    together_in,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)
from swd_video.plain_text import read_text

_FULL_DISK = """
import resource, sys
from pathlib import Path
from swd_video.files import check_writable, write_text

# Stands for a disk that is full: files may not grow beyond this.
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda: check_writable(sys.argv[1]), lambda: write_text(Path(sys.argv[1]) / "clip.mp4", "x" * 2000)):
    try:
        write()
    except (OSError, ValueError) as error:
        print(error)
"""
_KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from swd_video.files import remove_leftovers, whole_file, whole_folder, write_json, write_text

if sys.argv[2] == "between the renames":
    rename, calls = os.replace, []

    def replace(source, target):
        rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
with whole_folder(Path(sys.argv[1])) as draft:
    (draft / "weights").write_text("killed")
    if sys.argv[2] == "while filling":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as draft:
        (draft / "weights").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("moment", ["while filling", "between the renames"])
def test_what_a_killed_writer_left_goes_with_the_next(moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    write(folder, "first")
    child = subprocess.run([sys.executable, "-c", _KILLED_WRITER, str(folder), moment], check=False)
    assert child.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) > 1
    # Of a folder whose name only begins alike, and of somebody else.
    others = [".student.v2.0123456789abcde.draft", ".student.mine", "student.v2"]
    for other in others:
        (tmp_path / other).mkdir()
    write(folder, "second")
    assert (folder / "weights").read_text() == "second"
    assert names(tmp_path) == sorted([*others, "student"])


def test_an_attempt_that_fails_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "student"
    write(folder, "first")
    with pytest.raises(RuntimeError), whole_folder(folder) as draft:
        (draft / "weights").write_text("second")
        raise RuntimeError
    assert (folder / "weights").read_text() == "first" and names(folder.parent) == ["student"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_planted_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    precious, target = tmp_path / "precious", tmp_path / "clip.json"
    precious.write_text("mine")
    for name in (".clip.json.tmp", ".clip.json.draft", "clip.json"):
        (tmp_path / name).symlink_to(precious)
    write_json(target, {"a": "ü"}, durable=True)
    assert precious.read_text() == "mine" and not target.is_symlink()
    assert target.read_text(encoding="utf-8") == '{\n  "a": "ü"\n}\n'


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_umask_says_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    weights = {"weight": torch.zeros(1)}  # `save_file` makes files for their owner alone
    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "whole.safetensors") as draft:
            save_file(weights, draft)
        with whole_folder(tmp_path / "folder") as draft:
            (draft / "part").mkdir()
            save_file(weights, draft / "part" / "inner.safetensors")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {
        "whole.safetensors": mode,
        "inner.safetensors": mode,
    }


def test_a_file_that_fails_leaves_the_older_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "clip.json"
    write_text(target, "first")
    with pytest.raises(RuntimeError), whole_file(target) as draft:
        draft.write_text("second")
        raise RuntimeError
    assert target.read_text() == "first" and names(tmp_path) == ["clip.json"]


def test_leftovers_are_told_by_their_names(tmp_path: Path) -> None:
    (tmp_path / ".clip.mp4.0123456789abcdef.draft").write_text("of a killed writer")
    (tmp_path / ".student.0123456789abcdef.draft").mkdir()
    kept = [".clip.mp4.tmp", ".mine.draft", "clip.mp4"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(kept)


_HOLDER = """
import sys, time
from swd_video.files import alone_in, whole_file

with alone_in(sys.argv[1]) as folder, whole_file(folder / "clip.mp4"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time_writes_into_a_folder_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"in\n"
    with pytest.raises(FolderInUseError, match=r"out: another run is writing there\. Wait"), alone_in(folder):
        pass
    assert len(names(folder)) == 2, "the holder's lock and its draft are left alone"
    holder.kill()
    holder.communicate()
    with alone_in(folder):
        assert names(folder) == [LOCK_NAME], "what the killed run left is gone"
        with pytest.raises(FolderInUseError), alone_in(folder):
            pass
        write_text(folder / "clip.json", "whole")
    assert names(folder) == ["clip.json"]


def test_a_folder_that_stays_empty_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), alone_in(tmp_path / "deep" / "out"):
        raise RuntimeError
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"--out .*file/out: cannot be written to: Not a"),
        alone_in(tmp_path / "file/out"),
    ):
        pass


def test_a_failure_names_the_file_that_was_to_be(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    folder_line, file_line = child.stdout.splitlines()
    assert folder_line == f"--out {tmp_path}: cannot be written to: File too large. Choose another folder."
    assert file_line == f"[Errno 27] File too large: '{tmp_path / 'clip.mp4'}'"
    assert names(tmp_path) == []


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "new" / "run", tmp_path / "there", tmp_path / "there"):
        check_writable(folder)
    assert names(tmp_path) == ["there"] and names(tmp_path / "there") == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, reason in [
        ("file", "it is no folder"),
        ("link", "it is no folder"),
        ("file/run", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("a\0b", "embedded null byte"),
    ]:
        with pytest.raises(ValueError, match=f"data.cache .*: cannot be written to: {reason}"):
            check_writable(tmp_path / name, "data.cache")


def test_a_full_disk_is_no_reason_to_take_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"No space left on device\. Make room, or choose another folder\.$"):
        check_writable(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_of_any_editor_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("a fox 狐\r\n🦊".encode(encoding))
    assert read_text(tmp_path / "text") == "a fox 狐\r\n🦊"
    (tmp_path / "text").write_bytes("a fox\nrené".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^line 2: byte 0xe9 belongs to no text in UTF-8"):
        read_text(tmp_path / "text")


def test_runs_that_share_a_folder_keep_others_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with together_in(out):
        with (
            together_in(out),
            pytest.raises(FolderInUseError, match=r"out: another run is writing there\. Wait"),
        ):
            alone_in(out).__enter__()
        assert names(out) == [LOCK_NAME]
        with pytest.raises(FolderInUseError), alone_in(out):
            pass
    assert names(out) == []
    with alone_in(out), pytest.raises(FolderInUseError, match="another run"), together_in(out):
        pass
    (out / LOCK_NAME).symlink_to(tmp_path / "planted")
    with pytest.raises(OSError, match="symbolic links"), together_in(out):
        pass
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL"])
def test_runs_keep_apart_where_there_are_no_locks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", flock)
    out = tmp_path / "out"
    with together_in(out), together_in(out):
        assert names(out) == []
    with alone_in(out):
        for enter in (together_in, alone_in):
            with (
                pytest.raises(FolderInUseError, match=rf"there, process {os.getpid()} on \S+\. Wait"),
                enter(out),
            ):
                pass
        assert names(out) == [LOCK_NAME]
    # A run of another machine that was killed: nobody here can know.
    (out / LOCK_NAME).write_text("12345\nnode7\n")
    for enter in (together_in, alone_in):
        with (
            pytest.raises(FolderInUseError, match=rf"12345 on node7\. .* over, delete \{LOCK_NAME} there\.$"),
            enter(out),
        ):
            pass
    (out / LOCK_NAME).unlink()
    with alone_in(out):
        pass


def test_file_systems_without_modes_take_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT, and shares of other machines, refuse to change who may read, and to wait for a folder's names."""
    fsync = os.fsync

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def no_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fsync", no_folders)
    with whole_file(tmp_path / "whole.safetensors", durable=True) as draft:
        save_file({"weight": torch.zeros(1)}, draft)
    write_json(tmp_path / "index.json", {}, durable=True)
    with whole_folder(tmp_path / "folder", durable=True) as draft:
        write_text(draft / "inner", "whole")
    assert names(tmp_path) == ["folder", "index.json", "whole.safetensors"]
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(PermissionError):  # of a file it counts
        write_text(tmp_path / "other", "", durable=True)


def test_the_longest_name_that_a_folder_takes(tmp_path: Path) -> None:
    for name in ("n" * 255, "狐" * 85, "n" * 254 + "\udcff"):
        write_text(tmp_path / name, "whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 3
