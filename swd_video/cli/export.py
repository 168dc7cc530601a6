"""`swd-video export STUDENT --out DIR`: a student in a form that other tools load, with a model card."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from swd_video.cli.arguments import JsonFlag, StudentName, read_arguments


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video export`."""

    student: StudentName
    """The student: the student/ folder of a run, or a shipped one such as pocket-wan-swd."""
    out: Path
    """Folder of the export; one that is there is replaced, anything else is left alone."""
    form: Literal["lora", "merged"] | None = None
    """lora: a file of the additions; merged: a whole pipeline folder. Default: what the student was trained as."""
    base: str | None = None
    """Hub name of the teacher, for the card, where the student was trained from a folder."""
    license: str | None = None
    """Licence for the card, for example apache-2.0. Default: the base model's, where its folder says so."""
    push: str | None = None
    """Upload the folder to this hub repository, OWNER/NAME, which is made where it is missing."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: folder, form, base_model, license, files, pushed."""


def run(argv: list[str]) -> int:
    """Export a student and return 0."""
    arguments = read_arguments(Arguments, "export", argv)
    from swd_video.student.export import check_push, export_student, exported_base_name, push_folder
    from swd_video.student.student import Student

    student = Student.load(arguments.student)
    if arguments.push is not None:
        check_push(arguments.push, exported_base_name(student, arguments.base, arguments.out))
    done = export_student(
        student,
        arguments.out,
        form=arguments.form,
        base_model=arguments.base,
        license=arguments.license,
        repo=arguments.push,
    )
    about = f"{done.form} of a student of {done.base_model}: {done.folder}, {len(done.files)} files"
    print(about, file=sys.stderr)
    if done.license is None:
        print("the licence of the base model is not known here; name it with --license", file=sys.stderr)
    pushed = None if arguments.push is None else push_folder(done.folder, arguments.push)
    if pushed is not None:
        print(f"pushed to {pushed}", file=sys.stderr)
    if arguments.json_output:
        report = {**asdict(done), "folder": str(done.folder.resolve()), "pushed": pushed}
        print(json.dumps(report))
    return 0
