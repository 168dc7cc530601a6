"""Put a trained teacher and student into the package, in half precision.

    python -m tools.pocket.ship --teacher out/pocket/teacher/final --student out/pocket/swd/student
    python -m tools.pocket.ship --decoder out/pocket/decoder/decoder.safetensors

Each may be left out. The shipped student names the shipped teacher as its own, and carries the decoder.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from swd_video.files import whole_folder
from swd_video.models.loading import (
    ASSETS,
    DECODER_FILE_NAME,
    load_pipeline,
    read_video_spec,
    write_video_spec,
)
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
    if student.decoder is not None:
        ship_decoder(assets / STUDENT / DECODER_FILE_NAME, assets)
    forget_origin(assets / STUDENT)


def ship_decoder(source: Path, assets: Path = ASSETS) -> None:
    """Put a decoder of the shipped teacher's VAE into the student's folder."""
    student = Student.load(assets / STUDENT).carry_decoder(source)
    assert student.decoder is not None
    student.decoder.to(torch.float16).save(assets / STUDENT / DECODER_FILE_NAME)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--decoder", type=Path)
    arguments = parser.parse_args()
    if arguments.teacher is not None:
        ship_teacher(arguments.teacher)
    if arguments.student is not None:
        ship_student(arguments.student)
    if arguments.decoder is not None:
        ship_decoder(arguments.decoder)


if __name__ == "__main__":
    main()
