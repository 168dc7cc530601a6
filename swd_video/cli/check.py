"""`swd-video check SCRIPT`: what a script would become, without rendering."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from swd_video.cli.arguments import JsonFlag, ScriptFile, read_arguments
from swd_video.cli.model_flags import OfScriptModel, ScriptModelFlags
from swd_video.environment import collecting_no_garbage
from swd_video.studio.script import load_script

_DESCRIPTION = """Say what a script would become, without rendering: shots, words, time, memory.

Reads the script in any form, the model's config files and its tokenizer, and no weights. Names every shot as it will
be, what the model cannot make, words that it does not know, and what is finished in a folder. docs/scripts.md explains
the output.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video check`."""

    script: ScriptFile
    """The script, in any form of docs/scripts.md."""
    out: Path | None = None
    """Folder of its clips, to say what is finished and how long clips took there; nothing is written."""
    batch: int | None = None
    """Takes to compute together; default as the drafts in the folder were made, else 1."""
    run: OfScriptModel = field(default_factory=ScriptModelFlags)
    json_output: JsonFlag = False
    """Print one JSON object on stdout."""


def run(argv: list[str]) -> int:
    """Check a script; returns 2 if it cannot be rendered as it is."""
    arguments = read_arguments(Arguments, "check", argv, _DESCRIPTION)
    # Before torch is imported: mistakes should show at once.
    script = load_script(arguments.script, arguments.run.reader)
    with collecting_no_garbage():
        from swd_video.studio.check import check

        found = check(
            script,
            arguments.out,
            model=arguments.run.model,
            device=arguments.run.device,
            dtype=arguments.run.dtype,
            options=arguments.run.options,
            batch=arguments.batch,
        )
    print(json.dumps(found.as_dict()) if arguments.json_output else "\n".join(found.lines()))
    for kind, lines in (("warning", found.warnings), ("error", found.problems)):
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
    return 2 if found.problems else 0
