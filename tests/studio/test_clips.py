"""What a clip's hash and its model's files depend on."""

from pathlib import Path

import pytest

from swd_video.models.loading import LoadOptions
from swd_video.student.student import Student
from swd_video.studio.clips import hash_content
from swd_video.studio.model import load_model_for_rendering


def test_content_hash_ignores_the_order_of_keys() -> None:
    assert hash_content({"a": 1, "b": 2}) == hash_content({"b": 2, "a": 1})
    assert hash_content({"a": 1, "b": 2}) != hash_content({"a": 2, "b": 1})


def test_a_student_counts_with_its_base_model(tiny_student: Path, tiny_wan_folder: Path) -> None:
    student, base = Student.load(tiny_student).folders()
    assert student == tiny_student
    assert base.samefile(tiny_wan_folder)


def test_a_whole_student_is_not_replaced_by_a_single_file(tiny_student: Path, tmp_path: Path) -> None:
    options = LoadOptions(transformer_file=tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"would replace all that student .* learned; leave it out"):
        load_model_for_rendering(str(tiny_student), options=options)
