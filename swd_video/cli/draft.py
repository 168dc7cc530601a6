"""`swd-video draft`: the first stages of many takes of every shot, to pick from."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from swd_video.cli.arguments import JsonFlag, ScriptFile, read_arguments
from swd_video.cli.following import following
from swd_video.cli.model_flags import OfScriptModel, ScriptModelFlags, quiet_loading
from swd_video.environment import collecting_no_garbage
from swd_video.files import check_writable
from swd_video.studio.picks import pick_takes
from swd_video.studio.script import Script, load_script
from swd_video.studio.sources import check_sources


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video draft`."""

    script: ScriptFile
    """The script; docs/scripts.md explains it."""
    out: Path
    """Folder of the clips; drafts that are there and still of the script are kept, so run again to go on."""
    seeds: int = 8
    """Takes of every shot; with --again, new ones."""
    stages: int | None = None
    """Stages of a draft; default what was measured for the student."""
    again: tuple[str, ...] = ()
    """Draw new seeds of these shots, and keep the old ones."""
    pick: tuple[str, ...] = ()
    """Pick takes that `render` finishes, as tiger:3, and draft nothing; tiger:none picks none of the shot any more."""
    batch: int | None = None
    """Takes to compute together: faster, but clips are then rounded a little differently, and `render` goes on in the
    same batches. Default as the drafts that are there, else 1."""
    only: tuple[str, ...] = ()
    """Draft these shots (tiger) or takes (tiger:3) alone."""
    skip: tuple[str, ...] = ()
    """Shots or takes not to draft."""
    run: OfScriptModel = field(default_factory=ScriptModelFlags)
    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of a summary."""
    json_progress: bool = False
    """Tell what happens as JSON on stderr, an object a line, instead of lines for people."""


def run(argv: list[str]) -> int:
    """Draft a script; returns 1 if a draft failed, else 0."""
    arguments = read_arguments(Arguments, "draft", argv)
    # Before torch is imported: mistakes should show at once.
    script = load_script(arguments.script, arguments.run.reader)
    if arguments.pick:
        return _pick(script, arguments)
    with collecting_no_garbage():
        from swd_video.studio.drafts import draft
        from swd_video.studio.folder import DRAFTS_PAGE_NAME, DRAFTS_SHEET_NAME

        quiet_loading()
    out: Path = arguments.out
    with following(as_json=arguments.json_progress) as (watch, stop):
        report = draft(
            script,
            out,
            seeds=arguments.seeds,
            stages=arguments.stages,
            again=arguments.again,
            batch=arguments.batch,
            model=arguments.run.model,
            device=arguments.run.device,
            dtype=arguments.run.dtype,
            options=arguments.run.options,
            only=arguments.only,
            skip=arguments.skip,
            watch=watch,
            stop=stop,
        )
    if arguments.json_output:
        print(json.dumps(report.as_dict(out)))
    else:
        print(f"{report.summary()}: {out / DRAFTS_PAGE_NAME}, {out / DRAFTS_SHEET_NAME}")
    return 1 if report.count("failed") else 0


def _pick(script: Script, arguments: Arguments) -> int:
    for flag in ("again", "only", "skip"):
        if getattr(arguments, flag):
            raise ValueError(
                f"--pick: picks takes and drafts nothing; give --{flag} in a command of its own."
            )
    check_writable(arguments.out)
    check_sources(script, arguments.out)
    picks = pick_takes(script, arguments.out, arguments.pick)
    if arguments.json_output:
        print(json.dumps({"picks": picks}))
        return 0
    for shot_id, numbers in picks.items():
        print(f"{shot_id}: take{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}")
    for shot_id in dict.fromkeys(text.partition(":")[0] for text in arguments.pick):
        if shot_id not in picks:
            print(f"{shot_id}: no take")
    script_says = [shot.id for shot in script.shots if shot.pick]
    if script_says:
        print(f"the script itself picks for {', '.join(script_says)}", file=sys.stderr)
    return 0
