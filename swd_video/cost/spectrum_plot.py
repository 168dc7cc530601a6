"""The plot of `swd-video spectrum`: power against frequency in time and in space, and where noise hides it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from swd_video.core.spectrum import LatentSpectrum
from swd_video.files import whole_file

_PANEL_PX = (560, 420)
_LEFT_PX, _TOP_PX, _BOTTOM_PX, _RIGHT_PX = 72, 96, 72, 84
_MAX_TICKS = 12
_BACKGROUND, _INK, _FAINT, _RULE = (250, 250, 248), (20, 20, 20), (110, 110, 110), (222, 222, 218)
_MEAN, _STRONGEST, _NOISE = (28, 92, 170), (140, 178, 222), (190, 88, 30)
_MARK_PX = 4
_LABEL_GAP_PX = 14
# Points more powers of ten below the highest than this are rounding errors, and drawn on the bottom line.
_MAX_DECADES = 10


@dataclass(frozen=True)
class _Panel:
    """Two curves from frequency 1 on, which is the first that a grid can lose: mean and strongest powers."""

    title: str
    unit: str
    means: list[float]
    strongest: list[float]


def draw_spectrum(path: Path, title: str, spectrum: LatentSpectrum, sigmas: Sequence[float | int]) -> None:
    """Draw power against frequency in time and in space, and a line for every noise level.

    Dark: the spectrum in time, and the radial one in space. Pale: the strongest space-time coefficient of that
    frequency in time, or along the longer side. The line of sigma lies at the power `(sigma / (1 - sigma))^2` that it
    just hides. A grid of n loses the points from n on, and nothing that can be seen where these lie below the line.

    Noise levels that hide all or nothing of what is drawn are left out.
    """
    side = "height" if spectrum.size.height >= spectrum.size.width else "width"
    panels = [
        _Panel(
            "in time",
            "first lost frequency = latent frames of the grid",
            spectrum.along("frames").tolist()[1:],
            spectrum.strongest("frames").tolist()[1:],
        ),
        _Panel(
            "in space",
            f"first lost frequency = {side} of the grid (rings go on into the corners)",
            spectrum.radial().tolist()[1:],
            spectrum.strongest(side).tolist()[1:],
        ),
    ]
    width, height = _PANEL_PX
    step = _LEFT_PX + width + _RIGHT_PX
    image = Image.new("RGB", (len(panels) * step, _TOP_PX + height + _BOTTOM_PX), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((_LEFT_PX, 20), title, fill=_INK, font=ImageFont.load_default(24))
    bounds = _bounds([power for panel in panels for power in [*panel.means, *panel.strongest]])
    for index, panel in enumerate(panels):
        _draw_panel(draw, index * step + _LEFT_PX, panel, sigmas, *bounds)
    with whole_file(path) as draft:
        image.save(draft, format="PNG")


def _draw_panel(
    draw: ImageDraw.ImageDraw, left: int, panel: _Panel, sigmas: Sequence[float | int], low: int, high: int
) -> None:
    width, height = _PANEL_PX
    small = ImageFont.load_default(14)
    last = max(len(panel.means), 2)

    def x_of(place: int) -> float:
        return left + (place - 1) / (last - 1) * width

    def y_of(power: float) -> float:
        exponent = math.log10(power) if power > 0 else low
        return _TOP_PX + (high - max(exponent, low)) / (high - low) * height

    draw.text((left, _TOP_PX - 34), f"power {panel.title}", fill=_INK, font=ImageFont.load_default(18))
    for place, (word, colour) in enumerate((("mean", _MEAN), ("strongest", _STRONGEST))):
        draw.text((left + width - 150 + 60 * place, _TOP_PX - 30), word, fill=colour, font=small)
    for exponent in range(low, high + 1):
        y = y_of(10.0**exponent)
        draw.line([(left, y), (left + width, y)], fill=_RULE)
        draw.text((left - 8, y), f"1e{exponent}", fill=_FAINT, font=small, anchor="rm")
    for place in range(1, len(panel.means) + 1, math.ceil(len(panel.means) / _MAX_TICKS)):
        draw.text((x_of(place), _TOP_PX + height + 8), str(place), fill=_FAINT, font=small, anchor="ma")
    draw.text((left, _TOP_PX + height + 34), panel.unit, fill=_FAINT, font=small)
    _draw_noise(draw, left, sigmas, 10.0**low, 10.0**high, y_of)
    for powers, colour in ((panel.strongest, _STRONGEST), (panel.means, _MEAN)):
        points = [(x_of(place), y_of(power)) for place, power in enumerate(powers, start=1)]
        draw.line(points, fill=colour, width=3, joint="curve")
        for x, y in points:
            draw.ellipse([x - _MARK_PX, y - _MARK_PX, x + _MARK_PX, y + _MARK_PX], fill=colour)


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


def _bounds(powers: list[float]) -> tuple[int, int]:
    """Powers of ten that hold all points down to `_MAX_DECADES` below the highest."""
    highest = max(powers)
    if highest == 0:
        return -1, 1
    high = math.ceil(math.log10(highest))
    lowest = min(power for power in powers if power > 0)
    low = max(math.floor(math.log10(lowest)), high - _MAX_DECADES)
    return min(low, high - 1), high
