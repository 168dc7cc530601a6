"""Draw the plots of docs/study.md from docs/study.json.

    python -m tools.pocket.study_plots           # draws all into docs/study/
    python -m tools.pocket.study_plots --check   # draws nothing, and fails where a plot shows other figures

A plot holds the figures that it shows, so that it can be told without drawing whether it is up to date.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from swd_video.core.interval import Estimate
from swd_video.evaluation.cost import figures_from_json
from swd_video.files import whole_file
from tools.pocket.study_tables import over_seeds

_SHOWN = {
    "adherence_subject": "subject read right",
    "kernel": "distance to real clips",
    "flow": "motion, of the teacher's",
    "sharpness": "sharpness, of the teacher's",
    "diversity": "diversity, of the teacher's",
}
_BACKGROUND, _INK, _FAINT, _RULE = (250, 250, 248), (20, 20, 20), (110, 110, 110), (214, 214, 210)
_STAGES, _FULL, _TEACHER = (28, 92, 170), (190, 88, 30), (60, 60, 60)
_LABEL_PX, _PANEL_PX, _GAP_PX, _ROW_PX, _TOP_PX, _BOTTOM_PX = 470, 250, 46, 36, 92, 62
_FONT_PX = 20
_KEPT = "figures"


@dataclass(frozen=True)
class Plot:
    """Rows of the study side by side, each figure in a panel of its own."""

    groups: Mapping[str, Mapping[str, str]]
    """By headline: what a row is called, by its name in the study."""
    shown: tuple[str, ...] = ("kernel", "flow", "sharpness", "diversity")
    """Figures, as study.json has them."""

    def figures(self, known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
        """Value, lowest and highest of each figure by row: an interval of 95 %, or the spread of several seeds."""
        found: dict[str, dict[str, list[float]]] = {}
        for name in (name for rows in self.groups.values() for name in rows):
            runs = [figures_from_json({"": known[key]["figures"]})[""] for key in _runs_of(name, known)]
            row = over_seeds(runs)
            found[name] = {
                key: [round(number, 4) for number in _ends(row[key])] for key in self.shown if key in row
            }
        return found


PLOTS: dict[str, Plot] = {
    "upsampler": Plot(
        {
            "DMD at noise from 0.4 up, a little MMD": {
                "three-stages-high": "three stages, bicubic between them",
                "three-stages-upsampler": "three stages, a learned upsampler",
                "full-2-high": "two full steps",
                "full-4-high": "four full steps",
            },
            "MMD alone": {
                "three-stages-alone": "three stages, bicubic between them",
                "three-stages-upsampler-alone": "three stages, a learned upsampler",
                "full-2-calmer-alone": "two full steps",
                "full-4-alone": "four full steps",
            },
        }
    ),
    "growth": Plot(
        {
            "DMD, half of the inputs its own": {
                "staged": "four stages, time grows last",
                "frames-first": "all frames from stage 3 on, on 6x6",
                "sooner": "all frames from stage 3 on, on 8x8",
                "three-stages": "three stages, all frames from stage 2 on",
                "space-only": "all frames from the start",
                "full-4": "four full steps",
            },
            "true clips of the stage before": {"three-stages-true": "the three stages"},
        }
    ),
    "steps": Plot(
        {
            "DMD and the lightest MMD": {
                "full-1-light": "one full step",
                "full-2-light": "two full steps, the second from 0.80",
                "full-2-calmer": "two full steps, the second from 0.64",
                "full-4-light": "four full steps",
                "three-stages-tiny": "three stages, the last from 0.64",
            },
            "where the last of three stages starts": {
                "three-stages-noisier": "from 0.80",
                "three-stages-lighter": "from 0.72",
                "three-stages-calmer": "from 0.64",
                "three-stages-calmest": "from 0.56",
            },
        }
    ),
    "objectives": Plot(
        {
            "DMD and MMD, three stages": {
                "three-stages-true": "without",
                "three-stages-lighter": "weight 0.25",
                "three-stages-light": "weight 1",
                "three-stages-mmd": "weight 4",
            },
            "four stages": {
                "staged": "DMD",
                "dmd-gan": "DMD and a discriminator",
                "dfd": "DMD, data in the teacher's score",
                "guidance-1": "DMD, the teacher without guidance",
                "pseudo-huber": "MMD",
                "mmd-gan": "MMD and a discriminator",
                "gan": "a discriminator alone",
            },
        }
    ),
    "compared": Plot(
        {
            "the kernel, of block 4": {
                "pseudo-huber": "pseudo-Huber, on means",
                "linear": "linear, on means",
                "rbf": "RBF, on all pairs",
                "rational": "rational quadratic, on all pairs",
            },
            "what it is shown, pseudo-Huber": {
                "early": "block 0",
                "late": "block 7",
                "blocks": "blocks 1, 4 and 7",
                "frames": "a set for each frame",
                "motion": "clips and differences of frames",
            },
            "other networks, other sets": {
                "transnetv2": "TransNetV2, which sees pixels",
                "videomae": "VideoMAE, which sees pixels",
                "groups": "four clips of a prompt joined, RBF",
            },
        }
    ),
    "teacher": Plot(
        {
            "DMD": {
                "staged": "the shipped teacher",
                "dmd-full-grid": "one that never saw the small grids",
                "dmd-adapted-grid": "that one, adapted to them",
            },
            "MMD alone": {
                "pseudo-huber": "the shipped teacher",
                "mmd-full-grid": "one that never saw the small grids",
                "mmd-adapted-grid": "that one, adapted to them",
            },
            "the teachers themselves": {
                "teacher-50": "the shipped one",
                "full-grid-teacher": "that never saw the small grids",
                "adapted-grid-teacher": "that one, adapted to them",
            },
        },
        ("adherence_subject", "kernel", "flow", "sharpness"),
    ),
}


def draw_plot(path: Path, plot: Plot, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a dot for every figure, with a line from its lowest to its highest.

    Args:
        path: the PNG to write; it appears when it is whole.
        plot: which rows and figures.
        known: what study.json holds.

    Raises:
        ValueError: for a row that is not known.
    """
    found = plot.figures(known)
    lines = sum(len(rows) + 1 for rows in plot.groups.values())
    width = _LABEL_PX + len(plot.shown) * (_PANEL_PX + _GAP_PX)
    height = _TOP_PX + lines * _ROW_PX + _BOTTOM_PX
    image = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_FONT_PX)
    places, y = {}, _TOP_PX
    for title, rows in plot.groups.items():
        draw.text((24, y + _ROW_PX / 2), title, fill=_FAINT, font=font, anchor="lm")
        for index, (name, label) in enumerate(rows.items(), start=1):
            places[title, name] = y + index * _ROW_PX + _ROW_PX / 2
            draw.text((48, places[title, name]), label, fill=_INK, font=font, anchor="lm")
        y += (len(rows) + 1) * _ROW_PX
    for index, key in enumerate(plot.shown):
        left = _LABEL_PX + index * (_PANEL_PX + _GAP_PX)
        rows_of = {
            place: (name, found[name][key]) for (_, name), place in places.items() if key in found[name]
        }
        _draw_panel(draw, left, y, key, rows_of)
    kept = PngInfo()
    kept.add_text(_KEPT, json.dumps(found))
    with whole_file(path) as draft:
        image.save(draft, format="PNG", pnginfo=kept, optimize=True)


def shown_by(path: Path) -> Any:
    """The figures that a plot shows, as `Plot.figures` gave them; None where there is no plot."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return json.loads(image.info.get(_KEPT, "null"))


def _draw_panel(
    draw: ImageDraw.ImageDraw, left: int, bottom: int, key: str, rows: Mapping[float, tuple[str, list[float]]]
) -> None:
    font, small = ImageFont.load_default(_FONT_PX), ImageFont.load_default(_FONT_PX - 3)
    ends = [number for _, numbers in rows.values() for number in numbers]
    step = _tick_step(max(ends) - min(ends))
    low, high = math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step

    def x_of(value: float) -> float:
        return left + (value - low) / (high - low) * _PANEL_PX

    draw.text((left + _PANEL_PX / 2, 44), _SHOWN[key], fill=_INK, font=font, anchor="mm")
    for tick in range(round((high - low) / step) + 1):
        value = low + tick * step
        draw.line([(x_of(value), _TOP_PX - 10), (x_of(value), bottom)], fill=_RULE, width=1)
        draw.text((x_of(value), bottom + 10), f"{value:.4g}", fill=_FAINT, font=small, anchor="ma")
    for y, (name, (value, lowest, highest)) in rows.items():
        teacher = name.startswith("teacher-") or name.endswith("-teacher")
        colour = _TEACHER if teacher else _FULL if name.startswith("full-") else _STAGES
        draw.line([(x_of(lowest), y), (x_of(highest), y)], fill=colour, width=3)
        x = x_of(value)
        draw.ellipse([x - 7, y - 7, x + 7, y + 7], fill=colour)


def _tick_step(span: float) -> float:
    """A round number that goes three to six times into a span."""
    power = 10.0 ** math.floor(math.log10(span or 1.0))
    return next(power * factor for factor in (0.2, 0.5, 1.0, 2.0) if span / (power * factor) <= 5)


def _runs_of(name: str, known: Mapping[str, Any]) -> list[str]:
    runs = [key for key in known if key.rpartition("-")[0] == name]
    if not runs:
        raise ValueError(f"{name}: study.json knows no run of this row; make it with tools.pocket.study")
    return sorted(runs)


def _ends(figure: Estimate | float) -> tuple[float, float, float]:
    return (
        (figure.value, figure.low, figure.high) if isinstance(figure, Estimate) else (figure, figure, figure)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every plot that shows other figures than study.json has; 1 where `--check` finds one."""

    def run(
        results: Path = Path("docs/study.json"), folder: Path = Path("docs/study"), check: bool = False
    ) -> int:
        known = json.loads(results.read_text(encoding="utf-8"))
        old = [
            name for name, plot in PLOTS.items() if shown_by(folder / f"{name}.png") != plot.figures(known)
        ]
        if old and check:
            print(f"{', '.join(old)}: out of date. Run: python -m tools.pocket.study_plots", file=sys.stderr)
            return 1
        for name in old:
            draw_plot(folder / f"{name}.png", PLOTS[name], known)
            print(folder / f"{name}.png")
        return 0

    return tyro.cli(run, description=__doc__, args=arguments)


if __name__ == "__main__":
    sys.exit(main())
