"""The rows of a study as its file has them, and the tables that are made of what is known of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from swd_video.config import Section
from swd_video.core.interval import Estimate
from swd_video.evaluation.cost import figures_from_json
from swd_video.evaluation.report import Column, markdown_table

COLUMNS = (
    Column("adherence_subject", "subject"),
    Column("adherence_motion", "motion"),
    Column("adherence_background", "background"),
    Column("kernel", "kernel ↓", 1),
    Column("frechet", "Frechet ↓", 0),
    Column("diversity", "diversity"),
    Column("spread", "spread"),
    Column("flow", "optical flow"),
    Column("sharpness", "sharpness"),
    Column("consistency", "consistency", 3, interval=False),
    Column("transformer_tflops", "TFLOPs ↓", 4),
)
OLD = "†"


class RowConfig(Section):
    """A student, or the teacher in so many steps."""

    name: str = Field(pattern=r"[a-z0-9-]+")
    """Of its folders and for `--rows`."""
    title: str
    """What the table says."""
    set: dict[str, Any] = Field(default={})
    """Keys that differ from the group's config."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    teacher_steps: PositiveInt | None = None
    """The teacher in so many steps instead of a student."""
    data: str | None = None
    """What the student's clips are, where they are not the corpus; part of the digest."""


class GroupConfig(Section):
    """Rows of one table."""

    title: str
    """Of the table."""
    config: str
    """Config of its students, beside the study's own file."""
    rows: tuple[RowConfig, ...]


class StudyConfig(Section):
    """The whole study, in the order in which it is made."""

    groups: tuple[GroupConfig, ...]


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one row: of one run as they are, of several the mean with the lowest and the highest."""
    if len(runs) == 1:
        return dict(runs[0])
    together: dict[str, Any] = {}
    for name in (name for name in runs[0] if all(name in run for run in runs)):
        values = [run[name].value if isinstance(run[name], Estimate) else run[name] for run in runs]
        together[name] = Estimate(float(np.mean(values)), min(values), max(values), len(values))
    return together


def about(count: int, reference_count: int) -> str:
    """What stands below the tables."""
    return (
        f"{count} clips of each run on held-out prompts, 2 samples a prompt; distances to {reference_count} real "
        "clips; diversity and spread as shares of real clips', optical flow and sharpness as shares of the teacher's "
        "at 50 steps. Brackets: 95 % bootstrap intervals over prompts, or, of several seeds, the lowest and the "
        "highest. TFLOPs of the transformer for a clip.\n\n"
        f"{OLD}: made under the old rule, on all held-out prompts, with diversity as a share of the teacher's. Its "
        "clips are not at hand, so nothing of it is called equal, better or worse by a paired difference."
    )


def render(study: StudyConfig, known: Mapping[str, Mapping[str, Any]], below: str) -> str:
    """The Markdown that goes between the markers: a table for each group with a row that is known."""
    parts = []
    for group in study.groups:
        rows, compared = [], []
        for row in group.rows:
            entries = [known[f"{row.name}-{seed}"] for seed in row.seeds if f"{row.name}-{seed}" in known]
            # Those of one rule only, the new one where there are any.
            new = [entry for entry in entries if "split" in entry]
            runs = [figures_from_json({"": entry["figures"]})[""] for entry in new or entries]
            seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
            mark = "" if new or not runs else f" {OLD}"
            missing = "" if runs else ": not run yet"
            rows.append(
                (f"{row.title} (`{row.name}`{seeds}){missing}{mark}", over_seeds(runs) if runs else {})
            )
            compared += [
                (f"{row.title} (`{row.name}`)", _said(entry)) for entry in new if "differences" in entry
            ]
        parts.append(f"### {group.title}\n\n{markdown_table(COLUMNS, rows)}")
        if compared:
            parts.append(f"Differences from the first row:\n\n{markdown_table(COLUMNS, compared)}")
    return "\n\n".join([*parts, below])


def _said(entry: Mapping[str, Any]) -> dict[str, str]:
    found, said = entry["differences"], {}
    for column in (column for column in COLUMNS if column.key in found):
        ends = (found[column.key][end] for end in ("value", "low", "high"))
        value, low, high = ("–" if end is None else f"{end:.{column.digits}f}" for end in ends)
        said[column.key] = f"{value} [{low}, {high}] {found[column.key]['verdict']}"
    return said
