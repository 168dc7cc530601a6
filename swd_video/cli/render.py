"""`swd-video render`: a script in, clips and a contact sheet out."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from swd_video.cli.arguments import JsonFlag, ScriptFile, read_arguments
from swd_video.cli.following import following
from swd_video.cli.model_flags import OfScriptModel, ScriptModelFlags, quiet_loading
from swd_video.environment import collecting_no_garbage
from swd_video.studio.script import load_script


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video render`."""

    script: ScriptFile
    """The script, in any form of docs/scripts.md."""
    out: Path
    """Folder for the clips; finished clips in it are kept, so run again to go on."""
    only: tuple[str, ...] = ()
    """Render these shots (tiger) or takes (tiger:3) alone; the others stay as they are."""
    skip: tuple[str, ...] = ()
    """Shots or takes not to render."""
    previews: bool = False
    """Write what every stage but the last shows, NAME.preview.webp; it goes when the clip is there. Costs decoding."""
    tidy: bool = False
    """Move clips and drafts of shots that the script names no longer into the folder's unused/."""
    batch: int | None = None
    """Takes to compute together: faster, but rounded a little differently than alone; default as the drafts, else 1."""
    run: OfScriptModel = field(default_factory=ScriptModelFlags)
    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of a summary."""
    json_progress: bool = False
    """Tell what happens as JSON on stderr, an object a line, instead of lines for people."""


def run(argv: list[str]) -> int:
    """Render a script; returns 1 if a shot failed, else 0."""
    arguments = read_arguments(Arguments, "render", argv)
    # Before torch is imported: mistakes should show at once.
    script = load_script(arguments.script, arguments.run.reader)
    with collecting_no_garbage():
        from swd_video.studio.folder import REPORT_NAME, SHEET_NAME
        from swd_video.studio.render import render

        quiet_loading()
    out: Path = arguments.out
    with following(as_json=arguments.json_progress) as (watch, stop):
        report = render(
            script,
            out,
            model=arguments.run.model,
            device=arguments.run.device,
            dtype=arguments.run.dtype,
            options=arguments.run.options,
            only=arguments.only,
            batch=arguments.batch,
            skip=arguments.skip,
            previews=arguments.previews,
            tidy=arguments.tidy,
            watch=watch,
            stop=stop,
        )
    if arguments.json_output:
        print(json.dumps(report.as_dict(out)))
    else:
        print(f"{report.summary()}: {out / SHEET_NAME}, {out / REPORT_NAME}")
    return 1 if report.count("failed") else 0
