"""Folders that are there whole or not at all, whatever happens to their writers."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swd_video.pipelines.whole_folders import whole_folder

_KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from swd_video.pipelines.whole_folders import whole_folder

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
    others = [".student.v2.abcdefgh.draft", ".student.mine", "student.v2"]
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
