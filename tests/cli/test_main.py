"""The entry point: help without torch, exit codes, one-line errors."""

import importlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import swd_video
from swd_video.cli.commands import COMMANDS
from swd_video.cli.main import main


def run_python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_help_version_and_mistakes_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from swd_video.cli.main import main; main(sys.argv[1:]); "
        "loaded = {'torch', 'numpy', 'diffusers', 'transformers', 'tyro', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    result = run_python("-c", code, *arguments)
    assert result.returncode == 0, result.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"  {name} " in out
        assert text in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swd-video {swd_video.__version__}\n"


def test_no_command_prints_the_usage_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: swd-video" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rendr"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no command 'rendr'. Did you mean `render`?\n"
    assert captured.out == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"swd_video.cli.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.run(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"swd-video {name}" in out
    assert "--json" in out


def test_the_help_of_a_command_needs_no_torch() -> None:
    code = (
        "import sys\nfrom swd_video.cli.commands import COMMANDS\nfrom swd_video.cli.main import main\n"
        "for name in COMMANDS:\n"
        "    try: main([name, '--help'])\n    except SystemExit: print(f'helped {name}')\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} imported torch')\n"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^helped (\w+)$", result.stdout, re.MULTILINE) == list(COMMANDS)


def test_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "absent.yaml"
    assert main(["render", str(missing), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {missing}: no such script. Check the path.\n"
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_what_the_system_refuses_is_said_without_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.txt").write_text("a tiger")
    folder = tmp_path / "film.yaml"
    folder.mkdir()
    assert main(["convert", str(tmp_path / "film.txt"), str(folder), "--overwrite"]) == 1
    assert capsys.readouterr().err == f"error: {folder}: Is a directory.\n"


def test_a_machine_without_memory_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Four thousand terabytes, which no machine gives."""
    assert main(["bench", "mmd", "--tokens", "1000000000000", "--channels", "1000"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "can't allocate memory" in error
    assert "Fitting a model into memory. Run the same command again" in error


def test_the_traceback_is_there_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWD_VIDEO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no such script"):
        main(["render", str(tmp_path / "absent.yaml"), "--out", str(tmp_path / "out")])


def test_commands_do_not_pass_on_what_xformers_says_of_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main(["render", str(tmp_path / "absent.yaml"), "--out", str(tmp_path / "out")])
    logging.getLogger("xformers").warning("WARNING[XFORMERS]: xFormers can't load C++/CUDA extensions.")
    assert not caplog.records


@pytest.fixture
def signals_of_a_new_process() -> Iterator[None]:
    """As a shell starts a command, whoever started the tests, and whatever they have loaded."""
    usual = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_of_a_new_process")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_to_end_let_a_command_clean_up(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number, cleaned = getattr(signal, name), []

    def run(arguments: list[str]) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            cleaned.append(name)
        return 0

    module = types.ModuleType("slow")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swd_video.cli.slow", module)
    monkeypatch.setitem(COMMANDS, "slow", "sleeps")
    before = signal.getsignal(number)
    assert main(["slow"]) == code
    assert cleaned == [name] and signal.getsignal(number) == before
    assert "Run the same command again to go on." in capsys.readouterr().err


def test_names_that_the_terminal_cannot_show_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shows")
    module.run = lambda arguments: print("caf\u00e9 \N{TIGER FACE}") or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swd_video.cli.shows", module)
    monkeypatch.setitem(COMMANDS, "shows", "shows")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["shows"]) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == rb"caf\xe9 \U0001f42f" + b"\n"  # type: ignore[attr-defined]
