"""The plot of `swd-video spectrum`: power against frequency in time and in space, and where noise hides it."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from swd_video.core.spectrum import LatentSpectrum

_PANEL_PX = (560, 420)
_LEFT_PX, _TOP_PX, _BOTTOM_PX, _RIGHT_PX = 72, 96, 72, 84
_MAX_TICKS = 12
_BACKGROUND, _INK, _FAINT, _RULE = (250, 250, 248), (20, 20, 20), (110, 110, 110), (222, 222, 218)
_CURVE, _NOISE = (28, 92, 170), (190, 88, 30)
_MARK_PX = 4
_LABEL_GAP_PX = 14
# Points more powers of ten below the highest than this are rounding errors, and drawn on the bottom line.
_MAX_DECADES = 10


@dataclass(frozen=True)
class _Panel:
    """One curve: its name, the unit of its horizontal axis, and places and powers of its points."""

    title: str
    unit: str
    places: list[float]
    powers: list[float]


def draw_spectrum(path: Path, title: str, spectrum: LatentSpectrum, sigmas: Sequence[float | int]) -> None:
    """Draw the spectrum in time and the radial one in space, and a line for every noise level.

    The line of sigma lies at the power `(sigma / (1 - sigma))^2` that it just hides. A grid of n loses the points
    from n on; it loses nothing that can be seen where these all lie below the line.

    Args:
        path: the PNG to write; it appears when it is whole.
        title: headline.
        spectrum: what to draw.
        sigmas: noise levels; those that hide all or nothing of what is drawn are left out.
    """
    radial = spectrum.radial().tolist()
    longest = max(spectrum.size.height, spectrum.size.width)
    side = "height and width" if spectrum.size.height == spectrum.size.width else "the longer side"
    times = spectrum.along("frames").tolist()
    panels = [
        _Panel("in time", "first lost frequency = latent frames of the grid", _count(times), times),
        _Panel("in space, over rings", f"first lost frequency = {side} of the grid", _count(radial), radial),
    ]
    width, height = _PANEL_PX
    image = Image.new(
        "RGB", (len(panels) * (_LEFT_PX + width + _RIGHT_PX), _TOP_PX + height + _BOTTOM_PX), _BACKGROUND
    )
    draw = ImageDraw.Draw(image)
    draw.text((_LEFT_PX, 20), title, fill=_INK, font=ImageFont.load_default(24))
    low, high = _range([*times, *radial])
    for index, panel in enumerate(panels):
        left = index * (_LEFT_PX + width + _RIGHT_PX) + _LEFT_PX
        _draw_panel(draw, left, panel, sigmas, low, high, None if index == 0 else longest)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    left: int,
    panel: _Panel,
    sigmas: Sequence[float | int],
    low: int,
    high: int,
    full: int | None,
) -> None:
    width, height = _PANEL_PX
    small = ImageFont.load_default(14)
    last = max(panel.places[-1], 1)

    def x_of(place: float) -> float:
        return left + place / last * width

    def y_of(power: float) -> float:
        exponent = math.log10(power) if power > 0 else low
        return _TOP_PX + (high - max(exponent, low)) / (high - low) * height

    draw.text((left, _TOP_PX - 34), f"power {panel.title}", fill=_INK, font=ImageFont.load_default(18))
    for exponent in range(low, high + 1):
        y = y_of(10.0**exponent)
        draw.line([(left, y), (left + width, y)], fill=_RULE)
        draw.text((left - 8, y), f"1e{exponent}", fill=_FAINT, font=small, anchor="rm")
    step = math.ceil((len(panel.places)) / _MAX_TICKS)
    for place in panel.places[::step]:
        draw.text((x_of(place), _TOP_PX + height + 8), f"{place:g}", fill=_FAINT, font=small, anchor="ma")
    draw.text((left, _TOP_PX + height + 34), panel.unit, fill=_FAINT, font=small)
    if full is not None:
        # Beyond it only corners follow.
        draw.line([(x_of(full), _TOP_PX), (x_of(full), _TOP_PX + height)], fill=_RULE, width=2)
    _draw_noise(draw, left, sigmas, 10.0**low, 10.0**high, y_of)
    points = [(x_of(place), y_of(power)) for place, power in zip(panel.places, panel.powers, strict=True)]
    draw.line(points, fill=_CURVE, width=3, joint="curve")
    for x, y in points:
        draw.ellipse([x - _MARK_PX, y - _MARK_PX, x + _MARK_PX, y + _MARK_PX], fill=_CURVE)


def _draw_noise(
    draw: ImageDraw.ImageDraw,
    left: int,
    sigmas: Sequence[float | int],
    lowest: float,
    highest: float,
    y_of: Callable[[float], float],
) -> None:
    small = ImageFont.load_default(14)
    labelled = -math.inf
    for sigma in sorted(set(sigmas), reverse=True):
        power = math.inf if sigma == 1 else (sigma / (1 - sigma)) ** 2
        if not lowest <= power <= highest:
            continue
        y, right = y_of(power), left + _PANEL_PX[0]
        for start in range(left, right, 8):
            draw.line([(start, y), (start + 4, y)], fill=_NOISE)
        # Where lines crowd, the label of the higher level stands for its neighbours.
        if y - labelled >= _LABEL_GAP_PX:
            draw.text((right + 6, y), f"sigma {sigma:g}", fill=_NOISE, font=small, anchor="lm")
            labelled = y


def _range(powers: list[float]) -> tuple[int, int]:
    """Powers of ten that hold all points down to `_MAX_DECADES` below the highest."""
    highest = max(powers)
    if highest == 0:
        return -1, 1
    high = math.ceil(math.log10(highest))
    lowest = min(power for power in powers if power > 0)
    low = max(math.floor(math.log10(lowest)), high - _MAX_DECADES)
    return min(low, high - 1), high


def _count(powers: list[float]) -> list[float]:
    return [float(place) for place in range(len(powers))]
