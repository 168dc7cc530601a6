"""`swd-video render`: a script in, clips and a contact sheet out."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from swd_video.cli.arguments import read_arguments
from swd_video.cli.following import following
from swd_video.environment import collecting_no_garbage
from swd_video.models.devices import Device, Precision
from swd_video.models.load_options import LoadOptions
from swd_video.studio.script import load_script

HELP = "render a script into clips, previews and a contact sheet"


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video render`."""

    script: tyro.conf.Positional[Path]
    """The script, in any form of docs/scripts.md."""
    out: Path
    """Folder for the clips; finished clips in it are kept, so run again to go on."""
    model: str | None = None
    """Student to use instead of the script's: a shipped name or a folder."""
    device: Device = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    dtype: Precision = "auto"
    """Precision; auto takes bfloat16 on cuda and float32 elsewhere."""
    reader: str | None = None
    """Reader of the script from another package, as module:Class or by its entry point's name; default: what belongs to
    the file's suffix."""
    decoder: str | None = None
    """The same as --load.decoder: vae, or a decoder's file; default what the student carries, else the VAE."""
    only: tuple[str, ...] = ()
    """Render these shots (tiger) or takes (tiger:3) alone; the others stay as they are."""
    skip: tuple[str, ...] = ()
    """Shots or takes not to render."""
    previews: bool = False
    """Write what every stage but the last shows, NAME.preview.webp; it goes when the clip is there. Costs decoding."""
    tidy: bool = False
    """Move the clips of shots that the script names no longer into the folder's unused/."""
    batch: int | None = None
    """Takes to compute together: faster, but rounded a little differently than alone; default as the drafts, else 1."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """How the model is fitted into memory and run; the keys of a config's `load`."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one JSON object on stdout instead of a summary."""
    json_progress: bool = False
    """Tell what happens as JSON on stderr, an object a line, instead of lines for people."""


def run(argv: list[str]) -> int:
    """Render a script; returns 1 if a shot failed, else 0."""
    arguments = read_arguments(Arguments, "render", HELP, argv)
    # Before torch is imported: mistakes should show at once.
    script = load_script(arguments.script, arguments.reader)
    with collecting_no_garbage():
        from swd_video.studio.folder import REPORT_NAME, SHEET_NAME
        from swd_video.studio.render import render

        quiet_loading()
    out: Path = arguments.out
    with following(as_json=arguments.json_progress) as (watch, stop):
        report = render(
            script,
            out,
            model=arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            options=arguments.load.shown_through(arguments.decoder),
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


def quiet_loading() -> None:
    """Take the progress bars of diffusers and transformers, one a component, off stderr."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
