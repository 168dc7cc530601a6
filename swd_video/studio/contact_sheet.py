"""Contact sheets: pictures that show every take of a script, frame by frame."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from swd_video import __version__
from swd_video.data.video import probe_video, read_frames
from swd_video.files import whole_file
from swd_video.studio.folder import drop_other_pages, in_pages
from swd_video.studio.lettering import Colour, draw_text

ROWS_ON_A_SHEET = 100

_FRAMES_IN_ROW = 6
_LONG_SIDE_PX = 208
_MARGIN_PX = 24
_GAP_PX = 8
_MIN_WIDTH_PX = 720
_BACKGROUND, _INK, _FAINT, _ALARM = (250, 250, 248), (20, 20, 20), (110, 110, 110), (176, 32, 32)

_MADE_OF = "made of"


@dataclass(frozen=True)
class SheetRow:
    """One take on the sheet.

    Attributes:
        heading: The clip's name.
        details: What goes beside the name in small print, for example length and seed.
        prompt: What the clip should show.
        video: The clip; None where there is none.
        problem: Why there is none, or what is wrong with it.
        picture: Draws what stands below the text, instead of frames of a clip.
        drawn_of: Files that `picture` reads, each with what is written beside it.
    """

    heading: str
    details: str
    prompt: str
    video: Path | None
    problem: str = ""
    picture: Callable[[], Image.Image] | None = None
    drawn_of: Sequence[tuple[Path, str]] = ()


def draw_contact_sheets(path: Path, title: str, subtitle: str, rows: Sequence[SheetRow]) -> list[Path]:
    """Draw every take as a row: name and prompt, and evenly spaced frames below, first and last included.

    Frames are read back from the finished files, so the sheets show what was written. A sheet that shows just these
    rows, and is younger than their files, stays as it is.

    Rows beyond the first hundred are on `sheet_2.png`, `sheet_3.png` and so on, where `path` is `sheet.png`; sheets of
    an earlier, longer script are deleted.

    Returns:
        The sheets, each of which appeared when it was whole.

    Raises:
        VideoError: If a clip cannot be read back.
        OSError: If a sheet cannot be written.
    """
    sheets = in_pages(path, rows, ROWS_ON_A_SHEET)
    for number, (sheet, shown) in enumerate(sheets.items(), 1):
        page = f"   page {number} of {len(sheets)}" if len(sheets) > 1 else ""
        made_of = _made_of(title, subtitle + page, shown)
        if not _is_drawn(sheet, made_of, shown):
            picture = _draw(title, subtitle + page, shown)
            about = PngInfo()
            about.add_text(_MADE_OF, made_of)
            with whole_file(sheet) as draft:
                picture.save(draft, format="PNG", pnginfo=about)
    drop_other_pages(path, sheets)
    return list(sheets)


def _made_of(title: str, subtitle: str, rows: Sequence[SheetRow]) -> str:
    """A digest of all that a sheet says, and of the names of the files that it shows."""
    facts: list[object] = [__version__, title, subtitle]
    for row in rows:
        files = [(path.name, beside) for path, beside in _files(row)]
        facts.append((row.heading, row.details, row.prompt, row.problem, files))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(row: SheetRow) -> Sequence[tuple[Path, str]]:
    return [(row.video, "")] if row.video else row.drawn_of


def _is_drawn(sheet: Path, made_of: str, rows: Sequence[SheetRow]) -> bool:
    """Whether a sheet shows all this, and is younger than the files that it shows."""
    try:
        with PngImageFile(sheet) as picture:
            if picture.info.get(_MADE_OF) != made_of:
                return False
        drawn = sheet.stat().st_mtime_ns
        return all(path.stat().st_mtime_ns < drawn for row in rows for path, _ in _files(row))
    except (OSError, SyntaxError):  # none that could be read, or a file is gone, of which drawing says more
        return False


def _draw(title: str, subtitle: str, rows: Sequence[SheetRow]) -> Image.Image:
    strips = [row.picture() if row.picture else _strip(row.video) if row.video else None for row in rows]
    inner = max([_MIN_WIDTH_PX, *(strip.width for strip in strips if strip)])

    def words(text: str, size: int, colour: Colour) -> Image.Image:
        return draw_text(text, size, colour, _BACKGROUND, inner)

    groups = [[words(title, 30, _INK), words(subtitle, 16, _FAINT)]]
    for row, strip in zip(rows, strips, strict=True):
        group = [words(f"{row.heading}   {row.details}", 16, _FAINT), words(row.prompt, 21, _INK)]
        if row.problem:
            group.append(words(row.problem, 16, _ALARM))
        groups.append(group if strip is None else [*group, strip])
    height = sum(picture.height + _GAP_PX for group in groups for picture in group)
    height += 3 * _GAP_PX * len(rows)
    sheet = Image.new("RGB", (inner + 2 * _MARGIN_PX, height + 2 * _MARGIN_PX), _BACKGROUND)
    top = _MARGIN_PX
    for group in groups:
        for picture in group:
            sheet.paste(picture, (_MARGIN_PX, top))
            top += picture.height + _GAP_PX
        top += 3 * _GAP_PX
    return sheet


def _strip(video: Path) -> Image.Image:
    """Evenly spaced frames of a clip side by side."""
    num_frames = probe_video(video).frames
    count = min(_FRAMES_IN_ROW, num_frames)
    frames = read_frames(video, np.linspace(0, num_frames - 1, count).round().astype(int).tolist())
    height, width = frames.shape[1:3]
    scale = _LONG_SIDE_PX / max(height, width)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGB", (count * (cell[0] + _GAP_PX) - _GAP_PX, cell[1]), _BACKGROUND)
    for column, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize(cell, Image.Resampling.LANCZOS)
        strip.paste(picture, (column * (cell[0] + _GAP_PX), 0))
    return strip
