"""Contact sheets: one picture that shows every take of a script, frame by frame."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swd_video.data.video import read_video

_FRAMES_IN_ROW = 6
_LONG_SIDE_PX = 208
_MARGIN_PX = 24
_GAP_PX = 8
_MIN_WIDTH_PX = 720
_BACKGROUND, _INK, _FAINT, _ALARM = (250, 250, 248), (20, 20, 20), (110, 110, 110), (176, 32, 32)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Block = tuple[str, _Font, tuple[int, int, int]]


@dataclass(frozen=True)
class SheetRow:
    """One take on the sheet.

    Attributes:
        heading: The clip's name.
        details: What goes beside the name in small print, for example length and seed.
        prompt: What the clip should show.
        video: The clip; None where there is none.
        problem: Why there is none; empty where there is one.
    """

    heading: str
    details: str
    prompt: str
    video: Path | None
    problem: str = ""


def draw_contact_sheet(path: Path, title: str, subtitle: str, rows: Sequence[SheetRow]) -> None:
    """Draw every take as a row: name and prompt, and evenly spaced frames below, first and last included.

    Frames are read back from the finished files, so the sheet shows what was written.

    Args:
        path: The PNG to write; it appears when it is whole.
        title: Headline.
        subtitle: One line below it, for example the model.
        rows: The takes, from top to bottom.

    Raises:
        VideoError: If a clip cannot be read back.
    """
    strips = [_strip(row.video) if row.video else None for row in rows]
    inner = max([_MIN_WIDTH_PX, *(strip.width for strip in strips if strip)])
    parts: list[list[_Block] | Image.Image | int] = [
        [(title, ImageFont.load_default(30), _INK), (subtitle, ImageFont.load_default(16), _FAINT)]
    ]
    for row, strip in zip(rows, strips, strict=True):
        text: list[_Block] = [
            (f"{row.heading}   {row.details}", ImageFont.load_default(16), _FAINT),
            (row.prompt, ImageFont.load_default(21), _INK),
        ]
        if row.problem:
            text.append((row.problem, ImageFont.load_default(16), _ALARM))
        parts += [3 * _GAP_PX, text, *([strip] if strip else [])]
    sheet = _stack(parts, inner)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        sheet.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _strip(video: Path) -> Image.Image:
    """Evenly spaced frames of a clip side by side."""
    frames, _ = read_video(video)
    count = min(_FRAMES_IN_ROW, len(frames))
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    height, width = frames.shape[1:3]
    scale = _LONG_SIDE_PX / max(height, width)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGB", (count * (cell[0] + _GAP_PX) - _GAP_PX, cell[1]), _BACKGROUND)
    for column, index in enumerate(chosen):
        picture = Image.fromarray(frames[index]).resize(cell, Image.Resampling.LANCZOS)
        strip.paste(picture, (column * (cell[0] + _GAP_PX), 0))
    return strip


def _stack(parts: Sequence[list[_Block] | Image.Image | int], inner: int) -> Image.Image:
    """Lay text, pictures and empty pixels out from top to bottom."""
    drawn: list[Image.Image | int] = []
    for part in parts:
        drawn += [_text(block, inner) for block in part] if isinstance(part, list) else [part]
    height = sum(part if isinstance(part, int) else part.height + _GAP_PX for part in drawn)
    sheet = Image.new("RGB", (inner + 2 * _MARGIN_PX, height + 2 * _MARGIN_PX), _BACKGROUND)
    top = _MARGIN_PX
    for part in drawn:
        if isinstance(part, int):
            top += part
            continue
        sheet.paste(part, (_MARGIN_PX, top))
        top += part.height + _GAP_PX
    return sheet


def _text(block: _Block, inner: int) -> Image.Image:
    text, font, colour = block
    lines = _wrap(text, font, inner)
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    bottom = draw.multiline_textbbox((0, 0), "\n".join(lines), font=font, spacing=4)[3]
    # Room for descenders on the last line, whether it has any or not, so that rows line up.
    picture = Image.new("RGB", (inner, int(bottom) + 4), _BACKGROUND)
    ImageDraw.Draw(picture).multiline_text((0, 0), "\n".join(lines), fill=colour, font=font, spacing=4)
    return picture


def _wrap(text: str, font: _Font, width: int) -> list[str]:
    """Break text between words so that every line fits; a word wider than the sheet is cut."""
    lines = [""]
    for word in text.split(" "):
        candidate = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
