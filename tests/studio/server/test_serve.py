"""A studio as a process: one for a folder, on an address of this machine."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swd_video.cli.main import main


@contextmanager
def opened(folder: Path, *flags: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A studio, with the address that it prints."""
    command = [
        sys.executable,
        "-m",
        "swd_video.cli.main",
        "studio",
        "--out",
        str(folder),
        "--no-open",
        "--json",
    ]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["address"]
    finally:
        process.kill()
        process.communicate()


def test_a_second_studio_is_told_where_the_first_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "out"
    with opened(folder, "--port", "0") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}api/state") as answer:
            assert json.load(answer)["folder"] == str(folder)
        assert main(["studio", "--out", str(folder), "--no-open", "--port", "0"]) == 1
        error = capsys.readouterr().err
        assert error == (
            f"error: {folder}: another studio is open there at {address}. Use that one, or choose another folder.\n"
        )
        other = tmp_path / "other"
        port = address.rstrip("/").rpartition(":")[2]
        assert main(["studio", "--out", str(other), "--no-open", "--port", port]) == 1
        assert f"--port {port}: nothing can listen there" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (
            130,
            "error: interrupted. Run the same command again to go on.\n",
        )
    # The page that is still open finds the next one where the last one was.
    with opened(folder) as (_, again):
        assert again == address


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "queue.json").write_text("{")
    assert main(["studio", "--out", str(tmp_path), "--no-open", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/queue.json: ")
    (tmp_path / "queue.json").unlink()
    assert main(["studio", "--out", str(tmp_path), "--no-open", "--host", "no-such-host.invalid"]) == 2
    assert "error: --host no-such-host.invalid: " in capsys.readouterr().err
    for words, message in (
        (["--port", "70000"], "--port 70000: expected a port from 0 to 65535"),
        ([str(tmp_path)], f"{tmp_path}: is a folder, expected a script"),
        (["--host", 70 * "a"], "--host aaa"),
    ):
        assert main(["studio", *words, "--out", str(tmp_path / "new"), "--no-open"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
        assert words[0] == "--host" or not (tmp_path / "new").exists()
    (tmp_path / "film.yaml").write_bytes(b"- \xff\n")
    assert (
        main(["studio", str(tmp_path / "film.yaml"), "--out", str(tmp_path), "--no-open", "--port", "0"]) == 2
    )
    assert "film.yaml: line 1: byte 0xff" in capsys.readouterr().err
