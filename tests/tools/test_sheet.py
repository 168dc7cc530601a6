"""The sheet of all subjects shows each row's own clips of each subject."""

from pathlib import Path

import numpy as np

from swd_video.evaluation.clip_store import StoredClips, store_arrays
from tools.pocket.sheet import draw, lines_of, spread

CAPTIONS = (
    "a whale moving left at night",
    "a tiger moving left at night",
    "a whale moving left at night",
    "a whale standing still at night",
)


def clips(folder: Path, grey: int) -> StoredClips:
    folder.mkdir()
    frames = np.zeros((4, 3, 16, 16, 3), dtype=np.uint8)
    frames[:, 1] = (grey + np.arange(4))[:, None, None, None]
    store_arrays(folder / "0.npz", {"frames": frames})
    return StoredClips(folder, (folder / "0.npz",), 4, CAPTIONS, 12.0)


def test_a_line_shows_middle_frames_of_one_prompt_by_every_row(tmp_path: Path) -> None:
    rows = {"real": clips(tmp_path / "a", 100), "student": clips(tmp_path / "b", 50)}
    lines = lines_of(rows["real"])
    assert lines == {
        "tiger": [1],
        "whale": [0, 2],
    }  # the corpus's order; clips of another prompt are left out
    sheet = np.asarray(draw(rows, ["whale", "tiger"], named=False))
    counts = dict(
        zip(*(values.tolist() for values in np.unique(sheet[..., 0], return_counts=True)), strict=True)
    )
    assert all(counts[shade] >= 256 for shade in (100, 102, 50, 52, 101, 51)) and counts.get(103, 0) < 256
    first, second = (int(np.argmax((sheet[..., 0] == shade).any(axis=1))) for shade in (100, 101))
    assert first < second  # in the order that was asked for
    assert int(np.argmax((sheet[..., 0] == 100).any(axis=0))) < int(
        np.argmax((sheet[..., 0] == 50).any(axis=0))
    )


def test_a_sheet_for_readers_has_every_line_in_two_columns_at_twice_the_size(tmp_path: Path) -> None:
    sheet = draw({"student": clips(tmp_path / "a", 100)}, ["whale", "tiger"], named=False)
    columns = spread(sheet, 2)
    assert columns.width == 4 * sheet.width
    left, right = np.split(np.asarray(columns)[..., 0], 2, axis=1)
    shown = [{shade for shade in (100, 101, 102) if (half == shade).sum() >= 200} for half in (left, right)]
    assert shown == [{100, 102}, {101}]
    # Both begin at the same height.
    tops = [int(np.argmax((half == shade).any(axis=1))) for half, shade in ((left, 100), (right, 101))]
    assert abs(tops[0] - tops[1]) <= 2
