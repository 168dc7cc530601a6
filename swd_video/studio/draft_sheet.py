"""Sheets of drafts: a row for each shot, its takes side by side, each from its first frame down to its last."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image, ImageSequence

from swd_video.studio.contact_sheet import SheetRow, draw_contact_sheets
from swd_video.studio.draft_report import DraftReport, DraftResult
from swd_video.studio.folder import DRAFTS_SHEET_NAME
from swd_video.studio.lettering import draw_text
from swd_video.studio.model import ScriptModel
from swd_video.studio.script import Script

_LONG_SIDE_PX = 120
_FRAMES = 3
_IN_A_ROW = 8
_GAP_PX = 8
_LABEL_PX = 15
_PICKED_MARK = "  picked"
_BACKGROUND, _FAINT, _PICKED = (250, 250, 248), (110, 110, 110), (23, 105, 58)


def write_sheets(out: Path, script: Script, model: ScriptModel, report: DraftReport) -> None:
    """Write `drafts.png`, and more of them for many shots.

    Raises:
        OSError: A preview cannot be read, or a sheet not be written.
    """
    rows = []
    for shot, results in report.by_shot():
        there = [(one, _label(one, report.is_picked(one))) for one in results if one.is_there]
        rows.append(
            SheetRow(
                heading=shot.id,
                details=f"{len(results)} takes   {results[0].clip.seconds:.3g} s",
                prompt=shot.prompt,
                video=None,
                problem="; ".join(f"take {one.clip.take.take}: {one.error}" for one in results if one.error),
                picture=partial(_draw_takes, out, there),
                drawn_of=[(out / one.file, label) for one, label in there],
            )
        )
    about = f"{model.name}, drafts of {report.stages} in {len(model.schedule)} stages"
    draw_contact_sheets(out / DRAFTS_SHEET_NAME, script.title, about, rows)


def _label(result: DraftResult, is_picked: bool) -> str:
    older = "  older" if result.status == "older" else ""  # it shows what the script said before
    return f"{result.clip.take.take}{older}{_PICKED_MARK if is_picked else ''}"


def _draw_takes(out: Path, takes: Sequence[tuple[DraftResult, str]]) -> Image.Image:
    cells = [_draw_take(out / result.file, label) for result, label in takes]
    if not cells:
        return Image.new("RGB", (1, 1), _BACKGROUND)
    width, height = cells[0].width + _GAP_PX, max(cell.height for cell in cells) + _GAP_PX
    columns = min(_IN_A_ROW, len(cells))
    lines = -(-len(cells) // _IN_A_ROW)
    sheet = Image.new("RGB", (columns * width - _GAP_PX, lines * height - _GAP_PX), _BACKGROUND)
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % _IN_A_ROW * width, index // _IN_A_ROW * height))
    return sheet


def _draw_take(preview: Path, text: str) -> Image.Image:
    with Image.open(preview) as animation:
        count = getattr(animation, "n_frames", 1)
        wanted = [round(index * (count - 1) / (_FRAMES - 1)) for index in range(_FRAMES)]
        frames = [
            frame.convert("RGB") for at, frame in enumerate(ImageSequence.Iterator(animation)) if at in wanted
        ]
    scale = _LONG_SIDE_PX / max(frames[0].size)
    width, height = (max(1, round(side * scale)) for side in frames[0].size)
    colour = _PICKED if text.endswith(_PICKED_MARK) else _FAINT
    label = draw_text(text, _LABEL_PX, colour, _BACKGROUND, width)
    cell = Image.new("RGB", (width, label.height + 2 + len(frames) * (height + 2)), _BACKGROUND)
    cell.paste(label, (0, 0))
    for index, frame in enumerate(frames):
        picture = frame.resize((width, height), Image.Resampling.BICUBIC)
        cell.paste(picture, (0, label.height + 2 + index * (height + 2)))
    return cell
