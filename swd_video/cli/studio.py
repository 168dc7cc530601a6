"""`swd-video studio`: a page beside a folder, from a script to clips."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from swd_video.cli.arguments import JsonFlag, OptionalScriptFile, read_arguments
from swd_video.cli.model_flags import OfScriptModel, ScriptModelFlags


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video studio`."""

    script: OptionalScriptFile = None
    """The script, of any form; default: the one in the folder that was open last, else a new one there."""
    out: Path | None = None
    """Folder for everything; the page goes on with what is in it. Default: out/NAME of the script, else out/studio."""
    host: str = "127.0.0.1"
    """Address to listen on. Whoever reaches it can use the page: other than this machine's own, only behind a login."""
    port: int | None = None
    """Port to listen on; 0 for any free one. Default: that of the last time, else the first free one from 8500 on."""
    no_open: bool = False
    """Do not open a browser."""
    run: OfScriptModel = field(default_factory=ScriptModelFlags)
    json_output: JsonFlag = False
    """Print one JSON object with the page's address on stdout instead of a line."""


def run(argv: list[str]) -> int:
    """Open a studio and serve it until the process is told to end."""
    arguments = read_arguments(Arguments, "studio", argv)
    from swd_video.studio.server.guard import is_loopback
    from swd_video.studio.server.serve import serve

    script: Path | None = arguments.script
    out = arguments.out or Path("out") / (script.stem if script else "studio")

    def ready(address: str) -> None:
        if arguments.json_output:
            print(json.dumps({"address": address, "folder": str(out.resolve())}), flush=True)
        else:
            print(
                f"{out}: open {address}  (Ctrl-C ends it; what is queued goes on the next time)", flush=True
            )
        if not is_loopback(arguments.host):
            print("warning: whoever reaches this address can use the page.", file=sys.stderr, flush=True)

    serve(
        out,
        script,
        host=arguments.host,
        port=arguments.port,
        flags=_passed_on(arguments),
        reader=arguments.run.reader,
        ready=ready,
        browse=not arguments.no_open,
    )
    return 0


def _passed_on(arguments: Arguments) -> tuple[str, ...]:
    """The flags that the commands of the queue take as well."""
    flags: list[str] = []
    for name in ("model", "device", "dtype", "decoder"):
        value = getattr(arguments.run, name)
        if value not in (None, "auto"):
            flags += [f"--{name}", str(value)]
    for key, value in arguments.run.load.model_dump(mode="json", exclude_defaults=True).items():
        flag = f"--load.{key.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return tuple(flags)
