"""Readers of scripts from outside of the package: how they are named, and that what they give is checked."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swd_video.studio.script import (
    DEFAULT_MODEL,
    Script,
    ScriptReader,
    Shot,
    Transition,
    check_script,
    load_script,
)
from swd_video.yaml_source import SourceError


class LinesReader(ScriptReader):
    """A prompt on each line; behind a `|` seconds."""

    def read(self, text: str, path: Path) -> Script:
        shots = []
        for number, line in enumerate(text.splitlines(), start=1):
            prompt, _, seconds = line.partition("|")
            name = prompt.split()[0] if prompt.strip() else ""
            length = float(seconds) if seconds else None
            shots.append(Shot(name, prompt.strip(), length, line=number))
        return Script(path, path.stem, DEFAULT_MODEL, 0, tuple(shots))


NAMED = f"{__name__}:LinesReader"


def test_a_reader_from_outside_reads_another_form(tmp_path: Path) -> None:
    path = tmp_path / "film.lines"
    path.write_text("tiger walks left | 2\nfish stays\n")
    script = load_script(path, NAMED)
    assert [(take.name, take.shot.prompt, take.shot.seconds) for take in script.takes()] == [
        ("tiger", "tiger walks left", 2.0),
        ("fish", "fish stays", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiger\n../fish\n", ":2: shots[1].id: '../fish' is not a file name"),
        ("tiger\nTIGER\n", ":2: shots[1].id: 'TIGER' is already the id of shots[0] on line 1"),
        ("tiger|-1\n", ":1: shots[0].seconds: expected seconds above 0, got -1.0"),
        ("\n", ":1: shots[0].prompt: expected text"),
        ("tiger \x00\n", ":1: shots[0].prompt: holds a control character"),
        ("", ":1: shots: there is none"),
    ],
)
def test_what_a_reader_from_outside_gives_is_checked(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "film.lines"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        load_script(path, NAMED)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"seconds": math.inf}, "seconds: expected seconds above 0, got inf"),
        ({"trim": (0.0, -0.5)}, "trim: expected seconds from 0, got -0.5"),
        ({"transition": Transition("crossfade", 0.0)}, "transition: expected seconds above 0, got 0.0"),
        ({"aspect": "wide"}, "aspect: expected WIDTH:HEIGHT, such as 16:9, got 'wide'"),
        ({"keep": (3, 0)}, "keep: expected a whole number from 1 to 1000, got 0"),
        ({"pick": (1001,)}, "pick: expected a whole number from 1 to 1000, got 1001"),
        ({"size": (0, 64)}, "size: expected a whole number from 1 to 100000, got 0"),
        ({"frames": 0}, "frames: expected a whole number from 1 to 100000, got 0"),
        ({"continues": "b"}, "continues: 'b' is the id of no shot"),
    ],
)
def test_all_that_a_reader_may_give_is_checked(more: dict[str, Any], problem: str) -> None:
    sound = Shot("a", "a tiger", line=3)
    script = Script(Path("film.x"), "film", DEFAULT_MODEL, 0, (sound,))
    assert check_script(script) is script and sound.line_of("picture") == 3
    with pytest.raises(SourceError) as caught:
        check_script(replace(script, shots=(replace(sound, **more),)))
    assert str(caught.value).startswith(f"film.x:3: shots[0].{problem}")


def test_what_is_no_reader_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.lines"
    path.write_text("- a tiger\n")
    assert load_script(path).shots[0].prompt == "a tiger", "a suffix that nobody knows is YAML"
    for name in ("pathlib:Path", "docx"):
        with pytest.raises(ValueError, match=f"{name}: is no ScriptReader"):
            load_script(path, name)
    with pytest.raises(ValueError, match="expected module:Class"):
        load_script(path, "no_such_module:Reader")
