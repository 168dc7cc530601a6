"""Takes whose shot a script names no longer: found by what lies beside them, and moved away whole."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from swd_video.studio.unused import see_to_unused, unused_files

from .film_folder import write_folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_only_files_of_shots_that_are_gone_are_found(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "holiday.mp4").write_bytes(b"somebody's own")
    (tmp_path / "notes.json").write_text('{"id": "mine"}')
    unfinished = {"green.latents.safetensors", "green.preview.webp"}
    for name in unfinished:
        (tmp_path / name).write_bytes(b"waiting")
    assert unused_files(["red", "green", "blue"], tmp_path) == []
    found = {path.name for path in unused_files(["Red", "blue"], tmp_path)}
    takes = {f"green{take}{suffix}" for take in ("", "-take2") for suffix in (".mp4", ".webp", ".json")}
    assert found == takes | unfinished


def test_they_are_told_and_moved_only_when_asked(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before, lines = names(tmp_path), []
    see_to_unused(["red", "green"], tmp_path, tidy_up=False, say=lines.append)
    assert names(tmp_path) == before
    see_to_unused(["red", "green"], tmp_path, tidy_up=True, say=lines.append)
    assert names(tmp_path / "unused") == {"blue.mp4", "blue.webp", "blue.json"}
    assert names(tmp_path) == before - names(tmp_path / "unused")
    see_to_unused(["red", "green"], tmp_path, tidy_up=True, say=lines.append)
    assert lines == [
        f"takes that no shot names any more: blue. --tidy moves them into {tmp_path / 'unused'}.",
        f"takes that no shot names any more, moved to {tmp_path / 'unused'}: blue",
    ]


def test_nothing_that_was_moved_before_is_written_over(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        write_folder(tmp_path)
        (tmp_path / "blue.webp").write_bytes(text)
        see_to_unused(["red", "green"], tmp_path, tidy_up=True, say=lambda line: None)
    assert (tmp_path / "unused" / "blue.webp").read_bytes() == b"first"
    assert (tmp_path / "unused-2" / "blue.webp").read_bytes() == b"second"


def leave_begun(folder: Path, *names: str) -> set[Path]:
    """What a run that was killed between two stages leaves."""
    folder.mkdir(exist_ok=True)
    files = {folder / f"{name}.latents.safetensors" for name in names}
    for file in files:
        save_file({"latents": np.zeros(1, np.float32)}, file, {"made_of": "{}"})
    return files


def test_what_a_killed_run_left_of_a_shot_that_is_gone_is_found(tmp_path: Path) -> None:
    write_folder(tmp_path)
    gone = leave_begun(tmp_path, "tiger", "tiger-take12") | leave_begun(tmp_path / "drafts", "tiger-take3")
    leave_begun(tmp_path, "red-take2")
    gone |= {tmp_path / "tiger.preview.webp", tmp_path / "tiger.mp4"}
    for name in ("tiger.preview.webp", "tiger.mp4", "holiday.preview.webp"):
        (tmp_path / name).write_bytes(b"half done")
    save_file({"weights": np.zeros(1, np.float32)}, tmp_path / "mine.latents.safetensors")
    (tmp_path / "broken.latents.safetensors").write_bytes(b"no tensors")
    assert set(unused_files(["red", "green", "blue"], tmp_path)) == gone
    assert unused_files(["red", "green", "blue"], tmp_path, begun=False) == []


def test_drafts_go_with_their_shot_and_keep_their_place(tmp_path: Path) -> None:
    write_folder(tmp_path)
    drafts = tmp_path / "drafts"
    leave_begun(drafts, "blue", "blue-take2", "red")
    for name in ("blue", "red"):
        about = {"id": name, "content_hash": "0", "files": {f"{name}.webp": "0"}}
        (drafts / f"{name}.json").write_text(json.dumps(about))
        (drafts / f"{name}.webp").write_bytes(b"a draft")
    see_to_unused(["red", "green"], tmp_path, tidy_up=True, say=lambda line: None)
    assert names(drafts) == {"red.json", "red.webp", "red.latents.safetensors"}
    assert names(tmp_path / "unused") == {"blue.mp4", "blue.webp", "blue.json"}
    left = {"blue.json", "blue.webp", "blue.latents.safetensors", "blue-take2.latents.safetensors"}
    assert names(tmp_path / "unused" / "drafts") == left


def test_a_sidecar_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_folder(folder)
    (tmp_path / "mine.mp4").write_bytes(b"mine")
    (folder / "blue.json").write_text('{"id": "blue", "content_hash": "0", "files": {"../mine.mp4": "0"}}')
    see_to_unused(["red", "green"], folder, tidy_up=True, say=lambda line: None)
    assert (tmp_path / "mine.mp4").is_file()
