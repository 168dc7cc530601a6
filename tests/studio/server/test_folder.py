"""What lies in the folder: takes as they are on the disk, and which files are handed out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swd_video.studio.picks import read_picks
from swd_video.studio.script import Script
from swd_video.studio.server.folder import Folder, describe_others, describe_shots
from swd_video.studio.yaml_script import parse_script

from .conftest import SCRIPT


def finish(folder: Path, shot: str, take: int, seed: int, prompt: str) -> None:
    name = shot if take == 1 else f"{shot}-take{take}"
    folder.mkdir(exist_ok=True)
    for suffix in (".mp4", ".webp"):
        (folder / f"{name}{suffix}").write_bytes(b"picture")
    about = {"id": shot, "take": take, "seed": seed, "prompt": prompt, "content_hash": f"{prompt} {seed}"}
    (folder / f"{name}.json").write_text(json.dumps(about))


def script() -> Script:
    return parse_script(SCRIPT, "film.yaml")


def described(folder: Folder) -> list[dict[str, Any]]:
    return describe_shots(script(), folder.clips(), folder.drafts(), read_picks(folder.path))


def test_shots_have_the_takes_of_the_script_and_those_on_the_disk(tmp_path: Path) -> None:
    takes = list(script().takes())
    finish(tmp_path, "tiger", 2, takes[1].seed, takes[1].shot.prompt)
    finish(tmp_path, "ghost", 1, 7, "an older text")
    finish(tmp_path / "drafts", "ghost", 4, 9, takes[2].shot.prompt)
    (tmp_path / "picks.json").write_text('{"tiger": [2]}')
    tiger, ghost = described(Folder(tmp_path))
    assert [(take["take"], take["picked"], bool(take["clip"])) for take in tiger["takes"]] == [
        (1, False, False),
        (2, True, True),
    ]
    assert tiger["takes"][1]["clip"]["file"] == "tiger-take2.mp4"
    assert not tiger["takes"][1]["clip"]["older"]
    assert [take["take"] for take in ghost["takes"]] == [1, 4]
    assert ghost["takes"][0]["clip"]["older"]
    assert ghost["takes"][1]["draft"]["preview"] == "drafts/ghost-take4.webp"


def test_a_take_that_would_be_made_of_something_else_now_is_older(tmp_path: Path) -> None:
    takes = {take.name: take for take in script().takes()}
    for take in takes.values():
        finish(tmp_path, take.shot.id, take.take, take.seed, take.shot.prompt)
        finish(tmp_path / "drafts", take.shot.id, take.take, take.seed, take.shot.prompt)
    folder = Folder(tmp_path)
    now = {name: f"{take.shot.prompt} {take.seed}" for name, take in takes.items()} | {
        "tiger": "another size"
    }
    shots = describe_shots(script(), folder.clips(), folder.drafts(), {}, now)
    for kind in ("clip", "draft"):
        assert [take[kind]["older"] for shot in shots for take in shot["takes"]] == [True, False, False]


def test_takes_of_shots_that_went_are_shown_apart(tmp_path: Path) -> None:
    finish(tmp_path, "walrus", 1, 3, "a walrus")
    (tmp_path / "render.json").write_text('{"shots": []}')
    (tmp_path / "broken.json").write_text("{")
    folder = Folder(tmp_path)
    assert [take["id"] for take in describe_others(script(), folder.clips(), folder.drafts())] == ["walrus"]
    assert [take["id"] for take in describe_others(None, folder.clips(), folder.drafts())] == ["walrus"]


def test_a_sidecar_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    finish(tmp_path, "tiger", 1, 1, "a tiger")
    before = folder.signature()
    assert folder.clips()["tiger", 1]["prompt"] == "a tiger"
    finish(tmp_path, "tiger", 1, 1, "a lion, larger")
    assert folder.clips()["tiger", 1]["prompt"] == "a lion, larger"
    finish(tmp_path, "fish", 1, 1, "a fish")
    assert folder.signature() != before


@pytest.mark.parametrize(
    "facts",
    [
        {"take": "1"}, {"take": None}, {"seed": "x"}, {"prompt": 3}, {"id": ["tiger"]}, {"seconds": float("nan")},
        {"prompt": "half a character: \ud83d"},
    ],
)  # fmt: skip
def test_a_sidecar_that_is_none_hides_its_own_take_and_no_other(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    finish(tmp_path, "tiger", 1, 1, "a tiger")
    finish(tmp_path, "ghost", 1, 1, "a ghost")
    about = json.loads((tmp_path / "tiger.json").read_text())
    (tmp_path / "tiger.json").write_text(json.dumps(about | facts))
    assert list(Folder(tmp_path).clips()) == [("ghost", 1)]


def test_what_is_no_fact_of_a_sidecar_is_left_out(tmp_path: Path) -> None:
    finish(tmp_path, "tiger", 1, 1, "a tiger")
    about = json.loads((tmp_path / "tiger.json").read_text())
    (tmp_path / "tiger.json").write_text(json.dumps(about | {"seconds": "long", "content_hash": 4}))
    take = Folder(tmp_path).clips()["tiger", 1]
    assert "seconds" not in take and "content_hash" not in take and take["file"] == "tiger.mp4"


def test_hidden_files_and_names_that_are_no_text_are_not_shown(tmp_path: Path) -> None:
    finish(tmp_path, ".tiger", 1, 1, "a tiger, half written")
    finish(tmp_path, "ghost", 1, 1, "a ghost")
    for suffix in (b".mp4", b".json"):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/cut-\xff" + suffix))).write_bytes(b"{}")
    folder = Folder(tmp_path)
    assert list(folder.clips()) == [("ghost", 1)]
    assert [name for name, _ in folder.files()] == ["ghost.json", "ghost.mp4", "ghost.webp"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json", "..", "drafts/../../secret.json", "/etc/hostname", "//etc/hostname", "C:/secret.json",
        "..\\secret.json", ".studio/address.json", ".swd-video.lock", "tiger.latents.safetensors", "drafts", "",
        "link.json", "linked/secret.json", "absent.mp4", "nul\0.json", "a/./b.json",
    ],
)  # fmt: skip
def test_what_is_no_file_of_the_folder_is_not_handed_out(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / "drafts").mkdir(parents=True)
    (out / ".studio").mkdir()
    for path in (
        tmp_path / "secret.json",
        out / ".studio" / "address.json",
        out / "tiger.latents.safetensors",
    ):
        path.write_text("{}")
    (out / "link.json").symlink_to(tmp_path / "secret.json")
    (out / "linked").symlink_to(tmp_path, target_is_directory=True)
    assert Folder(out).file(name) is None


def test_what_is_handed_out_is_listed_by_name(tmp_path: Path) -> None:
    finish(tmp_path, "tiger", 1, 1, "a tiger")
    finish(tmp_path / "drafts", "tiger", 1, 1, "a tiger")
    (tmp_path / "tiger.latents.safetensors").write_bytes(b"")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "tiger.mp4")
    names = [name for name, _ in Folder(tmp_path).files()]
    assert names == [
        f"{folder}tiger.{suffix}" for folder in ("drafts/", "") for suffix in ("json", "mp4", "webp")
    ]
