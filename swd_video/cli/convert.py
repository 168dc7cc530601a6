"""`swd-video convert SCRIPT OTHER`: a script of any form, written as YAML."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from swd_video.cli.arguments import JsonFlag, ScriptFile, read_arguments
from swd_video.files import check_writable, whole_file
from swd_video.studio.script import load_script
from swd_video.studio.yaml_writer import script_as_yaml

_DESCRIPTION = """Write a script of any form as YAML, where every key can be added by hand.

The shots stay the same, and so do their clips, byte for byte. Comments are not taken over.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video convert`."""

    script: ScriptFile
    """The script, in any form of docs/scripts.md."""
    other: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER")]
    """The YAML file to write; one that is there already is left alone."""
    reader: str | None = None
    """Reader of the script from another package, as module:Class or by its entry point's name; default: what belongs to
    the file's suffix."""
    overwrite: bool = False
    """Replace a file that is there already."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout."""


def run(argv: list[str]) -> int:
    """Convert a script."""
    arguments = read_arguments(Arguments, "convert", argv, _DESCRIPTION)
    other: Path = arguments.other
    if other.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(
            f"{other}: would be read as another form, expected a file of YAML; call it {other.stem}.yaml."
        )
    if other.exists() and not arguments.overwrite:
        raise ValueError(f"{other}: is there already; give another name, or --overwrite to replace it.")
    if not other.parent.is_dir():
        raise ValueError(f"{other}: there is no folder {other.parent}; make it, or give another name.")
    check_writable(other.parent, "OTHER")
    script = load_script(arguments.script, arguments.reader)
    text = script_as_yaml(script, other.parent)
    with whole_file(other) as draft:
        draft.write_text(text, encoding="utf-8")
    for line in script.warnings:
        print(f"warning: {line}", file=sys.stderr)
    found = {"file": str(other.resolve()), "shots": len(script.shots), "warnings": list(script.warnings)}
    shots = f"{len(script.shots)} shot{'' if len(script.shots) == 1 else 's'}"
    print(json.dumps(found) if arguments.json_output else f"{other}: {shots}")
    return 0
