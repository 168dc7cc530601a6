"""`swd-video evaluate CONFIG --out DIR`: judge models side by side."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys
from swd_video.models.devices import Device

_DESCRIPTION = """Make the same clips with several models, measure them, and write a page to look at.

Clips are made once and measured once: running the same command again after it was stopped goes on where it was. A row
whose student was trained with a network that is to judge it is refused.

Any key of the config is a flag too: --num-prompts 4 --metrics.judge out/judge. The keys and their defaults are
explained in docs/keys.md and swd_video/evaluation/config.py.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video evaluate`."""

    config: ConfigFile
    """YAML file, for example configs/pocket/evaluate.yaml."""
    out: Path
    """Folder of the evaluation: index.html, evaluation.json, table.md, config.yaml, clips/, costs/."""
    device: Device = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    document: Path | None = None
    """Markdown file to put the tables into as well, between its lines `<!-- evaluation NAME: begin -->` and `end`, NAME
    being the config's without .yaml."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: what evaluation.json holds, and the paths of page and table."""


def run(argv: list[str]) -> int:
    """Evaluate; returns 0."""
    arguments, keys = read_arguments_and_keys(Arguments, "evaluate", argv, _DESCRIPTION)
    from swd_video.config import load_config_as
    from swd_video.evaluation.config import EvaluateConfig

    config = load_config_as(EvaluateConfig, arguments.config, keys)

    from swd_video.evaluation.evaluate import RESULT_NAME, run_evaluation
    from swd_video.evaluation.page import PAGE_NAME, write_page
    from swd_video.evaluation.report import check_markers, replace_between_markers
    from swd_video.files import write_text
    from swd_video.models.devices import choose_device

    out, name, document = arguments.out, arguments.config.stem, arguments.document
    marker = f"evaluation {name}"
    if document is not None:
        check_markers(document, marker)
    results = run_evaluation(config, out, title=name, device=choose_device(arguments.device))
    report = results.report()
    write_text(out / "table.md", report + "\n")
    write_page(out / PAGE_NAME, results, config.page)
    if document is not None:
        replace_between_markers(document, marker, report)
    if arguments.json_output:
        found = json.loads((out / RESULT_NAME).read_text(encoding="utf-8"))
        print(json.dumps({**found, "page": str(out / PAGE_NAME), "table": str(out / "table.md")}))
    else:
        print(report)
        print(f"wrote {out / PAGE_NAME}", file=sys.stderr)
    return 0
