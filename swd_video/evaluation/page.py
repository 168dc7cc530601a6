"""One HTML page of an evaluation: figures, plots, and clips side by side. It needs no other file and no network."""

import base64
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from swd_video.core.interval import Estimate
from swd_video.data.video import write_preview, write_video
from swd_video.evaluation.config import PageConfig
from swd_video.evaluation.metrics.metric import Metric
from swd_video.evaluation.report import format_figure
from swd_video.evaluation.results import Results, RowResult
from swd_video.files import write_text
from swd_video.models.pixel_form import resize_pictures
from swd_video.pages import page_template

PAGE_NAME = "index.html"
_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_CRF = 20
_TICKS = 4
# Room beyond the outermost point or interval of a plot, as a share of its width.
_MARGIN = 0.06


def write_page(path: Path, results: Results, section: PageConfig) -> None:
    """Write the page."""
    text = page_template(_TEMPLATE).render(
        results=results,
        about=results.about,
        cell=format_figure,
        record=json.dumps(dict(results.about), indent=2, ensure_ascii=False),
        plots=[plot_metric(metric, results) for metric in results.shown],
        prompts=[
            (
                prompt,
                [
                    _shown(row, prompt, sample, section.max_height_px)
                    for sample in range(section.samples)
                    for row in results.rows
                ],
            )
            for prompt in choose_shown(results, section.prompts)
        ],
    )
    write_text(path, text)


def choose_shown(results: Results, count: int) -> list[str]:
    """Prompts to show, spread evenly over those of the first row that was sampled."""
    sampled = [row for row in results.rows if "transformer_calls" in row.figures] or list(results.rows)
    reference = next((row for row in sampled if row.key == results.reference), sampled[0])
    captions = list(dict.fromkeys(reference.clips.captions))
    picked = np.linspace(0, len(captions) - 1, min(count, len(captions))).round().astype(int)
    return [captions[index] for index in picked]


def plot_metric(metric: Metric, results: Results) -> dict[str, Any]:
    """Place every row's figure on an axis that holds all figures and their intervals.

    Returns:
        For the template: the metric, a mark for each row, and ticks as (position, label). Positions are shares of the
        plot's width from the left; `at` is None where a row has no such figure.
    """
    figures = [row.figures.get(metric.key) for row in results.rows]
    known = [_as_estimate(figure) for figure in figures if figure is not None]
    ends = [end for f in known for end in (f.low, f.value, f.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    span = (high - low) or abs(high) or 1.0
    low, high = low - _MARGIN * span, high + _MARGIN * span

    def place(value: float) -> float:
        return (min(max(value, low), high) - low) / (high - low)

    marks = []
    for row, figure in zip(results.rows, figures, strict=True):
        mark: dict[str, Any] = {"title": row.title, "text": format_figure(figure, metric.digits), "at": None}
        mark["is_reference"] = row.key == results.reference
        if figure is not None:
            estimate = _as_estimate(figure)
            mark |= {"low": place(estimate.low), "at": place(estimate.value), "high": place(estimate.high)}
        marks.append(mark)
    ticks = [(place(value), f"{value:.10g}") for value in ticks_between(low, high)]
    return {"metric": metric, "marks": marks, "ticks": ticks}


def ticks_between(low: float, high: float) -> list[float]:
    """Round numbers, about four, inside a range."""
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= rough)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def clip_address(frames: UInt8[np.ndarray, "frames height width 3"], fps: float) -> tuple[str, bool]:
    """A clip as a `data:` address: an MP4, or an animated WebP where H.264 cannot take its size.

    Returns:
        The address, and whether it is a picture.
    """
    even = frames.shape[1] % 2 == 0 and frames.shape[2] % 2 == 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("clip.mp4" if even else "clip.webp")
        if even:
            write_video(path, frames, fps, crf=_CRF)
        else:
            write_preview(path, frames, fps)
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{'video/mp4' if even else 'image/webp'};base64,{content}", not even


def _shown(row: RowResult, prompt: str, sample: int, max_height_px: int) -> dict[str, Any]:
    """A clip for the template; no address where the row has no such clip of the prompt."""
    indices = [index for index, caption in enumerate(row.clips.captions) if caption == prompt]
    if sample >= len(indices):
        return {"title": row.title, "address": None}
    frames = _shrunk(row.clips.clip(indices[sample]), max_height_px)
    address, is_picture = clip_address(frames, row.clips.fps)
    return {"title": row.title, "address": address, "is_picture": is_picture}


def _shrunk(
    frames: UInt8[np.ndarray, "frames height width 3"], max_height_px: int
) -> UInt8[np.ndarray, "frames _ _ 3"]:
    height, width = frames.shape[1:3]
    if height <= max_height_px:
        return frames
    # Even, for H.264.
    size = (max_height_px // 2 * 2, max(round(width * max_height_px / height / 2) * 2, 2))
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = resize_pictures(pixels, size)
    return np.ascontiguousarray(small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _as_estimate(figure: Estimate | float) -> Estimate:
    return figure if isinstance(figure, Estimate) else Estimate(figure, figure, figure, 1)
