"""`swd-video bench draft STUDENT`: after how many stages a draft tells the clip; noted in the student's folder."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swd_video.cli.arguments import JsonFlag, StudentName, read_arguments
from swd_video.cli.model_flags import ModelFlags, OfModel

_DESCRIPTION = """After how many stages a draft tells the clip.

Clips of several seeds are made of each prompt. What a stage showed counts as told where, of all finished clips of its
prompt, its own is the nearest: by the cosine of both, averaged to 5 frames of 16x16 and less what all seeds have in
common. The first stage that tells nine in ten is noted in the student's folder, for `swd-video draft` to stop at.
"""


@dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    student: StudentName
    """A shipped name or a folder."""
    prompts: Path | None = None
    """File with a prompt a line; default four short ones."""
    seeds: int = 8
    """Clips of each prompt."""
    look_only: bool = False
    """Write nothing into the student's folder."""
    run: OfModel = field(default_factory=ModelFlags)
    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of a table."""


def run(argv: list[str]) -> int:
    """Run the bench."""
    arguments = read_arguments(Arguments, "bench draft", argv, _DESCRIPTION)
    if arguments.seeds < 2:
        raise ValueError(
            f"--seeds: got {arguments.seeds}, expected at least 2, as clips are told from each other."
        )
    from swd_video.cost.draft_benchmark import PROMPTS, measure_drafts
    from swd_video.models.devices import choose_device, choose_precision
    from swd_video.student.student import Student

    prompts = PROMPTS if arguments.prompts is None else _read_prompts(arguments.prompts)
    student, device = Student.load(arguments.student), choose_device(arguments.run.device)
    pipe = student.pipeline(
        device=device,
        dtype=choose_precision(arguments.run.dtype, device),
        options=arguments.run.options,
    )
    pipe.set_progress_bar_config(disable=True)
    result = measure_drafts(pipe, prompts, arguments.seeds, _say)
    if not arguments.look_only:
        student.keep_draft_stages(result["draft_stages"])
    print(json.dumps(result) if arguments.json_output else _describe(arguments, result))
    return 0


def _read_prompts(file: Path) -> list[str]:
    from swd_video.plain_text import read_text

    try:
        lines = read_text(file).splitlines()
    except OSError as error:
        raise ValueError(f"--prompts {file}: cannot be read: {error.strerror}.") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"--prompts {file}: holds no prompt; expected one a line.")
    return prompts


def _say(prompt: str, seed: int) -> None:
    print(f"{prompt}: seed {seed}", file=sys.stderr, flush=True)


def _describe(arguments: Arguments, result: dict[str, Any]) -> str:
    lines = [
        f"{arguments.student}: {result['prompts']} prompts, {result['seeds']} seeds of each; chance is "
        f"{result['chance']:.1%}",
        f"{'stage':<8}{'nearest to its own clip':>24}{'cosine to it':>14}{'to the nearest other':>22}",
    ]
    rows = zip(result["nearest"], result["own"], result["other"], strict=True)
    for number, (nearest, own, other) in enumerate(rows, 1):
        lines.append(f"{number:<8}{nearest:>24.1%}{own:>14.3f}{other:>22.3f}")
    noted = "" if arguments.look_only else ", which is noted in its folder"
    lines.append(f"a draft takes {result['draft_stages']} of {result['stages']} stages{noted}")
    return "\n".join(lines)
