"""The script of the page: problems at their line, saved whole, and never over somebody else's text."""

from pathlib import Path

import pytest

from swd_video.studio.server.folder import Folder
from swd_video.studio.server.script_file import ChangedMeanwhileError, ScriptFile, version_of


def test_a_problem_is_told_at_its_line(tmp_path: Path) -> None:
    file = ScriptFile(tmp_path, tmp_path / "film.yaml")
    look = file.look_at("shots:\n  - id: tiger\n    promt: a tiger\n")
    assert look.script is None
    assert look.problems == ({"line": 3, "text": "shots[0].promt: unknown key. Did you mean `prompt`?"},)
    assert file.look_at("  \n").problems == ()
    warned = file.look_at("- a tiger  # on a meadow\n")
    assert warned.script is not None and warned.warnings[0]["line"] == 1


def test_a_text_is_saved_over_the_version_that_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    file = ScriptFile(tmp_path / "out", path)
    assert file.text() == ""
    file.save("- one\n", "film.yaml", "")
    file.save("- two\n", "film.yaml", version_of("- one\n"))
    with pytest.raises(ChangedMeanwhileError, match=r"film\.yaml") as refused:
        file.save("- three\n", "film.yaml", version_of("- one\n"))
    assert path.read_text() == "- two\n"
    file.save("- three\n", "film.yaml", refused.value.version)
    assert path.read_text() == "- three\n"


def test_another_name_is_another_script_in_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    file = ScriptFile(out, tmp_path / "film.yaml", reader="a:B")
    file.save("- one\n", "garden.yml", "")
    assert (out / "garden.yml").read_text() == "- one\n"
    assert (file.path, file.reader_of_path()) == (out / "garden.yml", None)
    file.save('["a tiger"]', "ghost.json", "")
    assert file.path.name == "ghost.script.json", "ghost.json is the sidecar of a shot"
    file.save("- two\n", "film.yaml", "")
    assert (file.path, file.reader_of_path()) == (tmp_path / "film.yaml", "a:B")


@pytest.mark.parametrize(
    "name", ["größe.yaml", "虎.txt", "हिन्दी.txt", "garden (1).yaml", "Anna's film, 2.txt"]
)
def test_a_dropped_script_has_any_name_that_people_give(tmp_path: Path, name: str) -> None:
    file = ScriptFile(tmp_path, tmp_path / "film.yaml")
    file.save("- one\n", name, "")
    assert (file.path.name, file.text()) == (name, "- one\n")
    assert Folder(tmp_path).file(name) == tmp_path / name, "the page hands it out"


@pytest.mark.parametrize(
    "name",
    [
        "虎" * 80 + ".yaml",
        "-film.yaml",
        "a\ud800.yaml",
        "../film.yaml",
        "/film.yaml",
        ".yaml",
        "film",
        "film.py",
        "a/b.yaml",
        "a\\b.yaml",
        "a..yaml",
        "x\n.yaml",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="script"):
        ScriptFile(tmp_path, tmp_path / "film.yaml").save("- one\n", name, "")
    assert not list(tmp_path.iterdir())


def test_a_link_that_the_user_made_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("- one\n")
    (tmp_path / "film.yaml").symlink_to(tmp_path / "real.yaml")
    ScriptFile(tmp_path, tmp_path / "film.yaml").save("- two\n", "film.yaml", version_of("- one\n"))
    assert (tmp_path / "film.yaml").is_symlink()
    assert (tmp_path / "real.yaml").read_text() == "- two\n"
