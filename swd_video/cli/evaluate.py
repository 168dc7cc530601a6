"""`swd-video evaluate CONFIG --out DIR`: judge models side by side."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from swd_video.cli.arguments import read_arguments_and_keys

HELP = "judge models side by side: quality, diversity, motion, cost, and a page of clips"

_DESCRIPTION = """Make the same clips with several models, measure them, and write a page to look at.

Clips are made once and measured once: running the same command again after it was stopped goes on where it was. A row
whose student was trained with a network that is to judge it is refused.

Any key of the config is a flag too: --num-prompts 4 --metrics.judge out/judge. The keys and their defaults are
explained in docs/evaluate.md and swd_video/evaluation/config.py.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video evaluate`."""

    config: tyro.conf.Positional[Path]
    """YAML file, for example configs/pocket/evaluate.yaml."""
    out: Path
    """Folder of the evaluation: index.html, evaluation.json, table.md, config.yaml, clips/, costs/."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one JSON object on stdout: what evaluation.json holds, and the paths of page and table."""


def run(argv: list[str]) -> int:
    """Evaluate; returns 0.

    Raises:
        ValueError: The config or what it names is not usable, or a student would be judged by what trained it.
    """
    arguments, keys = read_arguments_and_keys(Arguments, "evaluate", _DESCRIPTION, argv)
    from swd_video.config import dump_config, load_config_as
    from swd_video.evaluation.config import EvaluateConfig

    config = load_config_as(EvaluateConfig, arguments.config, keys)

    from swd_video.cli.devices import choose_device
    from swd_video.cli.evaluate_rows import build_evaluation
    from swd_video.evaluation.columns import comparison_table, results_table
    from swd_video.evaluation.evaluate import run_evaluation
    from swd_video.evaluation.page import PAGE_NAME, write_page
    from swd_video.files import write_text

    evaluation = build_evaluation(config, arguments.config.stem, choose_device(arguments.device))
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", dump_config(config))
    results = run_evaluation(evaluation, out)
    table = f"{results_table(results)}\n\n{comparison_table(results)}"
    write_text(out / "table.md", table + "\n")
    page = config.page
    write_page(
        out / PAGE_NAME,
        results,
        num_prompts=page.prompts,
        samples=page.samples,
        max_height_px=page.max_height_px,
    )
    if arguments.json_output:
        found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
        print(json.dumps({**found, "page": str(out / PAGE_NAME), "table": str(out / "table.md")}))
    else:
        print(table)
        print(f"wrote {out / PAGE_NAME}", file=sys.stderr)
    return 0
