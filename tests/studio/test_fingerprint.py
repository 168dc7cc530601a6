"""Fingerprints change with what a model makes, and with nothing else."""

import os
from pathlib import Path

import pytest

from swd_video.studio import fingerprint
from swd_video.studio.fingerprint import fingerprint_folders, hash_content
from swd_video.studio.model import model_folders


def make_folder(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "student.json").write_text("{}")
    (folder / "transformer" / "model.safetensors").write_bytes(weights)
    return folder


def test_place_dates_and_papers_do_not_matter(tmp_path: Path) -> None:
    first, second = make_folder(tmp_path / "a"), make_folder(tmp_path / "b")
    os.utime(second / "student.json", (0, 0))
    (second / "README.md").write_text("about")
    (second / "sample.mp4").write_bytes(b"clip")
    (second / ".cache").mkdir()
    (second / ".cache" / "x").write_text("y")
    assert fingerprint_folders([first]) == fingerprint_folders([second])


def test_bytes_names_and_further_folders_matter(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "a")
    renamed = make_folder(tmp_path / "b")
    (renamed / "student.json").rename(renamed / "pupil.json")
    folders = [[base], [make_folder(tmp_path / "c", b"Weights")], [renamed], [base, base]]
    assert len({fingerprint_folders(group) for group in folders}) == 4


def test_large_files_are_sampled_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_FILE_BYTES", 2**20)
    size = 20 * 2**20  # more than 256 samples of 64 KiB

    def of(*changed: int) -> str:
        path = tmp_path / "model.safetensors"
        with path.open("wb") as file:
            file.truncate(size)
            for position in changed:
                file.seek(position)
                file.write(b"x")
        return fingerprint_folders([tmp_path])

    assert len({of(), of(0), of(size - 1), of(100 * (size - 2**16) // 255)}) == 4
    between = fingerprint._SAMPLE_BYTES + 1
    assert of(between) == of(), "only samples are read, else this would take minutes for a large model"
    assert of(*range(0, size, 2**16)) != of(), "training changes weights everywhere"


def test_content_hash_ignores_the_order_of_keys() -> None:
    assert hash_content({"a": 1, "b": 2}) == hash_content({"b": 2, "a": 1})
    assert hash_content({"a": 1, "b": 2}) != hash_content({"a": 2, "b": 1})


def test_a_student_counts_with_its_base_model(tiny_student: Path, tiny_wan_folder: Path) -> None:
    student, base = model_folders(str(tiny_student))
    assert student == tiny_student
    assert base.samefile(tiny_wan_folder)
