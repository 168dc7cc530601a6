"""`swd-video draft --pick`: what is picked is said, and nothing else is made."""

from pathlib import Path

import pytest

from swd_video.cli.main import main


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "film.yaml"
    path.write_text("- {id: tiger, prompt: a tiger}\n- {id: ghost, prompt: a ghost}\n")
    return str(path)


def test_what_is_picked_now_is_said(tmp_path: Path, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "drafts").mkdir(parents=True)
    for name in ("tiger-take3", "ghost-take2", "ghost-take5"):
        (tmp_path / "out" / "drafts" / f"{name}.json").write_text("{}")
    command = ["draft", script, "--out", str(tmp_path / "out"), "--pick"]
    assert main([*command, "tiger:3", "ghost:5", "ghost:2"]) == 0
    assert capsys.readouterr().out == "tiger: take 3\nghost: takes 2, 5\n"
    assert main([*command, "tiger:none"]) == 0
    assert capsys.readouterr().out == "ghost: takes 2, 5\ntiger: no take\n"


def test_a_pick_that_cannot_be_kept_is_one_line_and_leaves_nothing(
    tmp_path: Path, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("fox:1", "tiger:999"):
        assert main(["draft", script, "--out", str(tmp_path / "out"), "--pick", text]) == 2
        assert capsys.readouterr().err.startswith(f"error: --pick {text}: ")
    assert (
        main(["draft", script, "--out", str(tmp_path / "out"), "--pick", "tiger:1", "--only", "ghost"]) == 2
    )
    assert "give --only in a command of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert main(["draft", script, "--out", script, "--pick", "tiger:1"]) == 2
    cure = "cannot be written to: it is no folder. Choose another folder."
    assert capsys.readouterr().err == f"error: --out {script}: {cure}\n"
