"""Flags with several values, and with none."""

from pathlib import Path

import pytest

from swd_video.cli.arguments import read_arguments
from swd_video.cli.convert import Arguments as ConvertArguments
from swd_video.cli.doctor import Arguments as DoctorArguments
from swd_video.cli.render import Arguments
from swd_video.cli.studio import Arguments as StudioArguments
from swd_video.cli.vbench import Arguments as VbenchArguments


@pytest.mark.parametrize(
    "words",
    [
        "film.yaml --out out --only a b --skip c",
        "--skip=c --only=a --only=b film.yaml --out out",
        "--only a --skip c --only b --out out film.yaml",
    ],
)
def test_values_of_a_flag_that_is_given_again_are_added(words: str) -> None:
    arguments = read_arguments(Arguments, "render", words.split())
    assert (arguments.only, arguments.skip) == (("a", "b"), ("c",))
    assert (arguments.script, arguments.out) == (Path("film.yaml"), Path("out"))


@pytest.mark.parametrize(("command", "kind"), [("doctor", DoctorArguments), ("studio", StudioArguments)])
def test_commands_that_need_no_words_take_none(command: str, kind: type) -> None:
    assert read_arguments(kind, command, []) == kind()


def test_help_is_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_arguments(Arguments, "render", ["--only", "a", "-h"])
    assert stopped.value.code == 0 and "--only" in capsys.readouterr().out


def test_help_says_what_stands_where_and_where_mistakes_go(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(ConvertArguments, "convert", ["-h"])
    told = " ".join(capsys.readouterr().out.split())
    assert "convert [-h] SCRIPT OTHER" in told and "mistakes are lines on stderr all the same" in told


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--out", "out", "--model", ""]])
def test_an_empty_value_is_not_taken_for_the_folder_one_is_in(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--(out|model): got an empty text"):
        read_arguments(Arguments, "render", ["film.yaml", *words])


def test_a_negative_prompt_may_be_empty() -> None:
    words = ["pocket-wan", "--prompts", "a.txt", "--out", "out", "--negative-prompt", ""]
    assert read_arguments(VbenchArguments, "vbench", words).negative_prompt == ""


@pytest.mark.parametrize(
    "words", ["--only --out out", "--only a --only --out out", "--out out --only a --only"]
)
def test_a_flag_without_its_values_is_not_taken_for_all(words: str) -> None:
    """As of a variable of the shell that is not set: `--only $SHOTS`."""
    with pytest.raises(ValueError, match="--only: expected at least one value"):
        read_arguments(Arguments, "render", ["film.yaml", *words.split()])


def test_an_empty_value_beside_a_good_one_is_refused() -> None:
    with pytest.raises(ValueError, match="--only: got an empty text"):
        read_arguments(Arguments, "render", ["film.yaml", "--out", "out", "--only", "a", ""])


def test_a_home_in_a_flag_is_that_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/tiger")
    arguments = read_arguments(Arguments, "render", ["~/film.yaml", "--out=~/clips"])
    assert (arguments.script, arguments.out) == (Path("/home/tiger/film.yaml"), Path("/home/tiger/clips"))


def test_a_home_in_any_of_several_paths_is_that_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/tiger")
    words = ["pocket-wan", "--prompts=~/a.txt", "--prompts", "b.txt", "~/c.txt", "--out", "out"]
    arguments = read_arguments(VbenchArguments, "vbench", words)
    assert arguments.prompts == (Path("/home/tiger/a.txt"), Path("b.txt"), Path("/home/tiger/c.txt"))


def test_a_home_in_a_setting_of_the_model_is_that_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/tiger")
    decoder = Path("/home/tiger/decoder.safetensors")
    for flag in ("--decoder", "--load.decoder"):
        words = ["film.yaml", "--out", "out", f"{flag}=~/decoder.safetensors"]
        assert read_arguments(Arguments, "render", words).run.options.decoder == decoder
