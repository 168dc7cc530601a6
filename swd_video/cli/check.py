"""`swd-video check SCRIPT`: what a script would become, without rendering."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from swd_video.cli.arguments import read_arguments
from swd_video.environment import collecting_no_garbage
from swd_video.models.devices import Device, Precision
from swd_video.models.load_options import LoadOptions
from swd_video.studio.script import load_script

HELP = "say what a script would become, without rendering: shots, words, time, memory"

_DESCRIPTION = f"""{HELP[0].upper()}{HELP[1:]}.

Reads the script in any form, the model's config files and its tokenizer, and no weights. Names every shot as it will
be, what the model cannot make, words that it does not know, and what is finished in a folder. docs/scripts.md explains
the output.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video check`."""

    script: tyro.conf.Positional[Path]
    """The script, in any form of docs/scripts.md."""
    out: Path | None = None
    """Folder of its clips, to say what is finished and how long clips took there; nothing is written."""
    model: str | None = None
    """Student to use instead of the script's: a shipped name or a folder."""
    device: Device = "auto"
    """Where it would run; auto takes cuda, then mps, then cpu."""
    dtype: Precision = "auto"
    """Precision; auto takes bfloat16 on cuda and float32 elsewhere."""
    reader: str | None = None
    """Reader of the script from another package, as module:Class or by its entry point's name; default: what belongs to
    the file's suffix."""
    decoder: str | None = None
    """The same as --load.decoder: vae, or a decoder's file; default what the student carries, else the VAE."""
    batch: int | None = None
    """Takes to compute together; default as the drafts in the folder were made, else 1."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """How the model would be fitted into memory and run; the keys of a config's `load`."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one JSON object on stdout."""


def run(argv: list[str]) -> int:
    """Check a script; returns 2 if it cannot be rendered as it is.

    Raises:
        ValueError: for a script that cannot be read, or a model that cannot be used, in one line.
    """
    arguments = read_arguments(Arguments, "check", _DESCRIPTION, argv)
    # Before torch is imported: mistakes should show at once.
    script = load_script(arguments.script, arguments.reader)
    with collecting_no_garbage():
        from swd_video.studio.check import check

        found = check(
            script,
            arguments.out,
            model=arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            options=arguments.load.shown_through(arguments.decoder),
            batch=arguments.batch,
        )
    print(json.dumps(found.as_dict()) if arguments.json_output else "\n".join(found.lines()))
    for kind, lines in (("warning", found.warnings), ("error", found.problems)):
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
    return 2 if found.problems else 0
