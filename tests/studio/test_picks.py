"""Picks: texts in, `picks.json` out, and the script's own word counts."""

import json
from pathlib import Path

import pytest

from swd_video.studio.picks import pick_takes, read_picks, with_picks
from swd_video.studio.script import Script
from swd_video.studio.yaml_script import parse_script


@pytest.fixture
def script() -> Script:
    text = "shots:\n- {id: tiger, prompt: a}\n- {id: fish, prompt: b}\n- {id: cow, prompt: c, pick: 2}\n"
    return parse_script(text, "film.yaml")


def test_picks_are_kept_and_the_script_s_own_count(tmp_path: Path, script: Script) -> None:
    assert with_picks(script, tmp_path) is script
    pick_takes(script, tmp_path, ["tiger:3", "tiger:1", "fish:2"])
    assert json.loads((tmp_path / "picks.json").read_text()) == {"tiger": [1, 3], "fish": [2]}
    assert pick_takes(script, tmp_path, ["tiger:5", "fish:none"]) == {"tiger": (5,)}
    picks = {"tiger": [4, 4, True, 0, "x"], "cow": [7], "fish": "2"}
    (tmp_path / "picks.json").write_text(json.dumps(picks))
    assert read_picks(tmp_path) == {"tiger": (4,), "cow": (7,)}
    assert [shot.pick for shot in with_picks(script, tmp_path).shots] == [(4,), (), (2,)]
    (tmp_path / "picks.json").write_text("[")
    assert read_picks(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tigr:3", "--pick tigr:3: there is no shot 'tigr'. Did you mean `tiger`"),
        (
            "tiger",
            "--pick tiger: expected the number of a take, from 1 to 1000, as in tiger:3, or tiger:none",
        ),
        ("tiger:0", "expected the number of a take"),
        ("tiger:²", "expected the number of a take"),
        ("cow:1", "the script says `pick` for cow, which counts"),
    ],
)
def test_what_is_no_pick_is_refused(tmp_path: Path, script: Script, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick_takes(script, tmp_path, [text])
    assert not list(tmp_path.iterdir())
