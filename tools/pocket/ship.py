"""Put a trained teacher and student into the package, in half precision.

    python -m tools.pocket.ship --teacher out/pocket/teacher/final --student out/pocket/swd/student

Either may be left out. The shipped student names the shipped teacher as its own.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from swd_video.files import whole_folder
from swd_video.models.loading import ASSETS, load_pipeline, read_video_spec, write_video_spec
from swd_video.student.export import forget_origin
from swd_video.student.student import Student

TEACHER, STUDENT = "pocket-wan", "pocket-wan-swd"


def ship_teacher(source: Path, assets: Path = ASSETS) -> None:
    """Write the teacher's folder, whole or not at all."""
    with whole_folder(assets / TEACHER) as draft:
        load_pipeline(source).to(torch.float16).save_pretrained(draft)
        write_video_spec(draft, read_video_spec(source))
        forget_origin(draft)


def ship_student(source: Path, assets: Path = ASSETS) -> None:
    """Write the student's folder, its teacher being the shipped one."""
    student = replace(Student.load(source), base_model=TEACHER)
    student.save(
        assets / STUDENT, WanTransformer3DModel.from_pretrained(student.weights_path).to(torch.float16)
    )
    forget_origin(assets / STUDENT)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--student", type=Path)
    arguments = parser.parse_args()
    if arguments.teacher is not None:
        ship_teacher(arguments.teacher)
    if arguments.student is not None:
        ship_student(arguments.student)


if __name__ == "__main__":
    main()
