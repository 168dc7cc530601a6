"""`swd-video doctor`: what this machine has."""

import json
from dataclasses import dataclass
from pathlib import Path

from swd_video.cli.arguments import JsonFlag, read_arguments
from swd_video.machine import describe, examine


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video doctor`."""

    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of text."""
    disk: Path = Path()
    """Folder whose free disk space to report."""


def run(argv: list[str]) -> int:
    """Examine the machine; returns 1 if a part that rendering needs does not work, else 0."""
    arguments = read_arguments(Arguments, "doctor", argv)
    if not arguments.disk.exists():
        raise ValueError(f"--disk {arguments.disk}: there is no such folder; name one that is there.")
    found = examine(arguments.disk)
    print(json.dumps(found) if arguments.json_output else describe(found))
    return 0 if found["ready"] else 1
