"""Takes that are named on the command line; picks: texts in, `picks.json` out, and the script's own word counts."""

import json
from pathlib import Path

import pytest

from swd_video.studio.picks import pick_takes, read_picks, select_takes, with_picks
from swd_video.studio.script import Script
from swd_video.studio.yaml_script import parse_script

TAKES = list(
    parse_script("- {id: tiger, prompt: a, takes: 3}\n- {id: Fish, prompt: b}\n", "film.yaml").takes()
)


@pytest.fixture
def script() -> Script:
    text = "shots:\n- {id: tiger, prompt: a}\n- {id: fish, prompt: b}\n- {id: cow, prompt: c, pick: 2}\n"
    return parse_script(text, "film.yaml")


def make_drafts(out: Path, *names: str) -> None:
    (out / "drafts").mkdir()
    for name in names:
        (out / "drafts" / f"{name}.json").write_text("{}")


def test_a_take_that_is_nowhere_is_not_picked(tmp_path: Path, script: Script) -> None:
    make_drafts(tmp_path, "tiger", "tiger-take2", "fish-take4")
    (tmp_path / "tiger-take3.json").write_text("{}")  # of a clip
    pick_takes(script, tmp_path, ["tiger:2", "tiger:3", "fish:1"])
    (tmp_path / "drafts" / "tiger-take2.json").unlink()
    told = r"^--pick tiger:999: tiger has no take '999', only 1, 2, 3\. Take one of them\. --again tiger drafts more"
    with pytest.raises(ValueError, match=told):
        pick_takes(script, tmp_path, ["fish:4", "tiger:999"])
    assert read_picks(tmp_path) == {"tiger": (2, 3), "fish": (1,)}
    assert pick_takes(script, tmp_path, ["tiger:2", "tiger:1"])["tiger"] == (1, 2), "it was picked before"


def test_picks_are_kept_and_the_script_s_own_count(tmp_path: Path, script: Script) -> None:
    assert with_picks(script, tmp_path) is script
    make_drafts(tmp_path, "tiger-take3", "tiger-take5", "fish-take2")
    pick_takes(script, tmp_path, ["tiger:3", "tiger:1", "fish:2"])
    assert json.loads((tmp_path / "picks.json").read_text()) == {"tiger": [1, 3], "fish": [2]}
    assert pick_takes(script, tmp_path, ["tiger:5", "fish:none"]) == {"tiger": (5,)}
    picks = {"tiger": [4, 4, 1], "cow": 7, "fish": []}
    (tmp_path / "picks.json").write_text(json.dumps(picks), encoding="utf-8-sig")
    assert read_picks(tmp_path) == {"tiger": (1, 4), "cow": (7,)}
    assert [shot.pick for shot in with_picks(script, tmp_path).shots] == [(1, 4), (), (2,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "picks.json: cannot be read: "),
        ("[3]", "picks.json: expected takes by shot"),
        ('{"tiger": [3], "fish": ["3"]}', r'picks.json: fish: got \["3"\], expected numbers of takes'),
        ('{"tiger": true}', "picks.json: tiger: got true, expected numbers of takes"),
    ],
)
def test_picks_that_a_slip_spoilt_are_refused_and_kept(
    tmp_path: Path, script: Script, text: str, message: str
) -> None:
    (tmp_path / "picks.json").write_text(text)
    for use in (lambda: with_picks(script, tmp_path), lambda: pick_takes(script, tmp_path, ["tiger:2"])):
        with pytest.raises(ValueError, match=message):
            use()
    assert (tmp_path / "picks.json").read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tigr:3", "--pick tigr:3: there is no shot 'tigr'. Did you mean `tiger`"),
        (
            "tiger",
            "--pick tiger: expected the number of a take, from 1 to 1000, as in tiger:3, or tiger:none",
        ),
        ("tiger:2", "--pick tiger:2: tiger has no take '2', only 1. Take one of them. --again tiger drafts"),
        ("tiger:0", "expected the number of a take"),
        ("tiger:²", "expected the number of a take"),
        ("cow:1", "the script says `pick` for cow, which counts"),
    ],
)
def test_what_is_no_pick_is_refused(tmp_path: Path, script: Script, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick_takes(script, tmp_path, [text])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("only", "skip", "names"),
    [
        ((), (), {"tiger", "tiger-take2", "tiger-take3", "Fish"}),
        (("Fish",), (), {"Fish"}),
        (("tiger:2", "tiger:1"), (), {"tiger", "tiger-take2"}),
        ((), ("tiger:1",), {"tiger-take2", "tiger-take3", "Fish"}),
        (("tiger",), ("tiger:3",), {"tiger", "tiger-take2"}),
    ],
)
def test_takes_are_chosen(only: tuple[str, ...], skip: tuple[str, ...], names: set[str]) -> None:
    assert select_takes(TAKES, only, skip) == names


@pytest.mark.parametrize(
    ("only", "skip", "message"),
    [
        (("tigr",), (), r"^--only tigr: there is no shot 'tigr'\. Did you mean `tiger`\?$"),
        ((), ("cat",), r"^--skip cat: there is no shot 'cat'\. Look up"),
        (("tiger:4",), (), r"^--only tiger:4: tiger has no take '4', only 1, 2, 3\."),
        (("tiger:",), (), r"tiger has no take ''"),
        (("tiger-take2",), (), r"there is no shot 'tiger-take2'\. Did you mean `tiger:2`\?$"),
        (("Fish",), ("Fish",), r"no take is left"),
    ],
)
def test_what_names_no_take_is_refused(only: tuple[str, ...], skip: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_takes(TAKES, only, skip)
