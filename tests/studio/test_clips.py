"""What a clip's hash and its model's files depend on."""

from pathlib import Path

from swd_video.studio.clips import hash_content
from swd_video.studio.model import model_folders


def test_content_hash_ignores_the_order_of_keys() -> None:
    assert hash_content({"a": 1, "b": 2}) == hash_content({"b": 2, "a": 1})
    assert hash_content({"a": 1, "b": 2}) != hash_content({"a": 2, "b": 1})


def test_a_student_counts_with_its_base_model(tiny_student: Path, tiny_wan_folder: Path) -> None:
    student, base = model_folders(str(tiny_student))
    assert student == tiny_student
    assert base.samefile(tiny_wan_folder)
