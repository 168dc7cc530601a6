"""`swd-video bench NAME`: what a part of the machinery costs, measured on this machine."""

import importlib
import sys

from swd_video.plain_text import did_you_mean

BENCHES = {
    "clip": "a clip from text to pixels: a student by part, its teacher, full steps",
    "draft": "after how many stages a draft tells the clip; noted in the student's folder",
    "mmd": "the exact kernel MMD against its naive form: memory, time",
    "training": "a step against its forward and backward passes: time; weights held: memory",
}
"""What is measured, a line of help each; literals, as a list of names needs no import."""


def usage() -> str:
    """Return the text of `swd-video bench --help`."""
    rows = "\n".join(f"  {name:<8}  {text}" for name, text in BENCHES.items())
    return (
        f"usage: swd-video bench NAME [--json] ...\n\nMeasure what a part of the machinery costs on this machine.\n\n"
        f"names:\n{rows}\n\n`swd-video bench NAME --help` lists a bench's options."
    )


def run(argv: list[str]) -> int:
    """Run one bench."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else 2)
    name, rest = argv[0], argv[1:]
    if name not in BENCHES:
        cure = did_you_mean(name, BENCHES, f"There are {', '.join(BENCHES)}.")
        raise ValueError(f"bench: nothing is called {name!r}. {cure}")
    return int(importlib.import_module(f"swd_video.cli.bench_{name}").run(rest))
