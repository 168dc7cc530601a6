"""Files and folders that are there whole or not at all, whatever happens to their writers."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swd_video.files import (
    LOCK_NAME,
    FolderInUseError,
    alone_in,
    remove_leftovers,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)

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
    with pytest.raises(OSError, match="file"), alone_in(tmp_path / "file" / "out"):
        pass
