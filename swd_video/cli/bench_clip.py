"""`swd-video bench clip STUDENT`: seconds from text to pixels, beside the teacher and full steps."""

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swd_video.cli.arguments import JsonFlag, StudentName, read_arguments
from swd_video.cli.model_flags import ModelFlags, OfModel

if TYPE_CHECKING:
    from swd_video.cost.speed import Timing

_DESCRIPTION = """Seconds from text to pixels on this machine: a student by part, its teacher with the steps and the
guidance of its own pipeline, and as many steps of full size as the student has stages.

All parts take turns in one process, so that whatever else the machine does falls on all of them; medians count.
"""
_NAMES = {
    "student": "student",
    "full_steps": "{stages} full steps",
    "teacher": "teacher, {teacher_steps} steps",
}


@dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    student: StudentName
    """A shipped name or a folder."""
    batch: int = 1
    """Clips made at once; all figures are for one of them."""
    rounds: int = 5
    """Timed runs of each part, of which the median counts."""
    teacher: str | None = None
    """Its teacher; default the base model that the student names."""
    run: OfModel = field(default_factory=ModelFlags)
    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of a table."""


def run(argv: list[str]) -> int:
    """Run the bench."""
    arguments = read_arguments(Arguments, "bench clip", argv, _DESCRIPTION)
    for flag in ("batch", "rounds"):
        if getattr(arguments, flag) < 1:
            raise ValueError(f"--{flag}: got {getattr(arguments, flag)}, expected at least 1.")
    from swd_video.cost.clip_benchmark import measure_clips
    from swd_video.models.devices import choose_device, choose_precision
    from swd_video.student.student import Student

    device = choose_device(arguments.run.device)
    result = measure_clips(
        Student.load(arguments.student),
        teacher=arguments.teacher,
        batch_size=arguments.batch,
        rounds=arguments.rounds,
        device=device,
        dtype=choose_precision(arguments.run.dtype, device),
        options=arguments.run.options,
        on_run=_say,
    )
    print(json.dumps(result) if arguments.json_output else _describe(arguments.student, result))
    return 0


def _say(part: str, timing: "Timing") -> None:
    print(f"{part}: {timing.total:.3f} s", file=sys.stderr, flush=True)


def _describe(student: str, result: dict[str, Any]) -> str:
    parts = result["seconds_a_clip"]
    lines = [
        f"{student}, {result['batch_size']} clips of {result['size']} at once, {result['dtype']}, {result['machine']}, "
        f"{result['threads']} threads; medians of {result['rounds']} rounds, lowest and highest in brackets",
        f"student, seconds a clip: text {parts['text']:.4f}, stages {parts['stages']:.4f}, "
        f"decode {parts['decode']:.4f}; peak memory {result['peak_gib']:.2f} GiB",
        f"{'text to pixels':<22}{'through':<9}{'decode':>9}{'all':>9}{'':<22}{'over the student':>18}",
    ]
    for row in result["rows"]:
        (low, high), (least, most) = row["all_spread"], row["over_student_spread"]
        lines.append(
            f"{_NAMES[row['way']].format(**result):<22}{row['through']:<9}{row['decode']:>9.4f}{row['all']:>9.4f}"
            f"{f'  [{low:.4f}, {high:.4f}]':<22}{row['over_student']:>18.2f}  [{least:.2f}, {most:.2f}]"
        )
    return "\n".join(lines)
