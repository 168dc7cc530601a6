"""The contact sheet shows every take, evenly spaced, with text that fits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swd_video.data.video import VideoError, write_video
from swd_video.studio.contact_sheet import SheetRow, draw_contact_sheets
from swd_video.studio.lettering import draw_text
from swd_video.studio.script import load_script

CASES = Path(__file__).parents[1] / "cases"

BACKGROUND = (250, 250, 248)


def write_ramp(path: Path, frames: int = 11, height: int = 32, width: int = 64) -> None:
    """A clip whose frame number can be read off its brightness: 0, 20, 40, ..."""
    levels = np.arange(frames, dtype=np.uint8) * 20
    write_video(path, np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy(), 12.0)


def runs_of_pictures(sheet: np.ndarray) -> list[tuple[int, int]]:
    """Top and bottom of each band of rows whose first 200 columns hold no background, as only pictures do."""
    filled = (np.abs(sheet[:, 24:224].astype(int) - BACKGROUND).max(axis=2) > 8).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).astype(int)))
    return [(int(top), int(bottom)) for top, bottom in edges.reshape(-1, 2)]


def draw(path: Path, rows: list[SheetRow], title: str = "Title") -> np.ndarray:
    draw_contact_sheets(path, title, "model", rows)
    return np.asarray(Image.open(path).convert("RGB"))


def test_each_take_has_a_row_of_evenly_spaced_frames(tmp_path: Path) -> None:
    write_ramp(tmp_path / "long.mp4")
    write_ramp(tmp_path / "short.mp4", frames=3)
    rows = [SheetRow(name, "", f"prompt of {name}", tmp_path / f"{name}.mp4") for name in ("long", "short")]
    sheet = draw(tmp_path / "sheet.png", rows)

    (top, bottom), (other_top, other_bottom) = runs_of_pictures(sheet)
    assert bottom - top == other_bottom - other_top == 104, "a 64x32 clip scaled to 208 pixels of width"
    middles = [24 + column * 216 + 104 for column in range(6)]
    shown = [int(sheet[(top + bottom) // 2, x, 0]) for x in middles]
    assert shown == pytest.approx([0, 40, 80, 120, 160, 200], abs=3)
    other = [int(sheet[(other_top + other_bottom) // 2, x, 0]) for x in middles]
    assert other[:3] == pytest.approx([0, 20, 40], abs=3)
    assert other[3:] == [BACKGROUND[0]] * 3, "a short clip repeats no frame"


def test_text_is_drawn_dark_and_long_prompts_wrap(tmp_path: Path) -> None:
    short = draw(tmp_path / "a.png", [SheetRow("a", "", "a prompt", None, "failed")])
    long = draw(tmp_path / "b.png", [SheetRow("a", "", "many words " * 60, None, "failed")])
    unbroken = draw(tmp_path / "c.png", [SheetRow("a", "", "m" * 400, None, "failed")])

    for sheet in (short, long, unbroken):
        assert (sheet < 60).all(axis=2).any(), "ink"
        assert (sheet[:, -16:] == BACKGROUND).all(), "nothing runs off the right edge"
    assert long.shape[0] > short.shape[0] + 100
    assert unbroken.shape[0] > short.shape[0] + 100


def test_a_failed_take_says_why_in_red(tmp_path: Path) -> None:
    sheet = draw(tmp_path / "a.png", [SheetRow("a", "", "prompt", None, "ValueError: no")]).astype(int)
    red = (sheet[..., 0] - sheet[..., 1] > 100).any()
    assert red
    assert not runs_of_pictures(sheet)


def test_a_clip_that_cannot_be_read_leaves_no_half_sheet(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError):
        draw(tmp_path / "sheet.png", [SheetRow("a", "", "prompt", tmp_path / "bad.mp4")])
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_a_sheet_has_at_most_a_hundred_rows(tmp_path: Path) -> None:
    rows = [SheetRow(f"shot-{number}", "", "a prompt", None) for number in range(201)]
    sheets = draw_contact_sheets(tmp_path / "sheet.png", "Title", "model", rows)
    assert [sheet.name for sheet in sheets] == ["sheet.png", "sheet_2.png", "sheet_3.png"]
    first, second, third = (Image.open(sheet).height for sheet in sheets)
    assert first == second > 20 * third
    (tmp_path / "sheet_mine.png").touch()
    draw_contact_sheets(tmp_path / "sheet.png", "Title", "model", rows[:100])
    assert {path.name for path in tmp_path.iterdir()} == {"sheet.png", "sheet_mine.png"}


def test_letters_that_no_font_has_are_written_out() -> None:
    def drawn(text: str) -> bytes:
        return draw_text(text, 20, (0, 0, 0), BACKGROUND, 400).tobytes()

    # Not assigned, so no machine has a font for them.
    assert drawn("a \u0378\u0379 b") == drawn("a [U+0378 U+0379] b")
    assert drawn("a \u0378 \u0379") == drawn("a [U+0378] [U+0379]")
    for text in load_script(CASES / "scripts_cjk.yaml").shots[0].prompt.split(", "):
        assert drawn(text) != drawn("".join(" " if letter == " " else "\uffff" for letter in text)), "boxes"


def test_a_picture_of_text_is_as_wide_as_asked_and_grows_downwards() -> None:
    one, many, wide = (
        draw_text(text, 20, (0, 0, 0), BACKGROUND, 300) for text in ("a", "many " * 30, "m" * 90)
    )
    assert one.width == many.width == wide.width == 300
    assert many.height >= 4 * one.height and wide.height >= 4 * one.height


def test_a_sheet_is_drawn_again_where_something_in_it_changed(tmp_path: Path) -> None:
    write_ramp(tmp_path / "clip.mp4")
    sheet, row = tmp_path / "sheet.png", SheetRow("a", "", "a prompt", tmp_path / "clip.mp4")

    def is_drawn_again(rows: list[SheetRow], title: str = "Title") -> bool:
        before = sheet.stat()
        draw(sheet, rows, title)
        return sheet.stat().st_ino != before.st_ino

    draw(sheet, [row])
    first = sheet.read_bytes()
    assert not is_drawn_again([row])
    assert is_drawn_again([row], "Another title")
    assert is_drawn_again([row])
    assert sheet.read_bytes() == first
    assert is_drawn_again([replace(row, problem="unknown words: cat")])
    assert is_drawn_again([row])
    write_ramp(tmp_path / "clip.mp4", frames=7)
    assert is_drawn_again([row])
    sheet.write_bytes(first[:60])
    assert is_drawn_again([row])
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(VideoError):
        draw(sheet, [row])
