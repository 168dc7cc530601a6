import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from swd_video.core.grid import PixelSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.evaluation.clip_store import StoredClips, make_clips, store_arrays
from swd_video.evaluation.config import StudentRowConfig, TeacherRowConfig
from swd_video.evaluation.rows import Row, prompt_requests, student_row, teacher_row
from swd_video.models.loading import load_teacher
from swd_video.student.student import load_student

MakeStudent = Callable[[Path, ScaleSchedule], Path]


def test_a_stopped_row_goes_on_with_the_same_clips(
    tiny_wan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_teacher(tiny_wan_folder)

    def row_with(guidance: float) -> Row:
        section = TeacherRowConfig(
            key="teacher", model=str(tiny_wan_folder), steps=2, guidance_scale=guidance
        )
        return teacher_row(section, model, PixelSize(5, 32, 32))

    row = row_with(2.0)
    specs = prompt_requests(["a bee", "a whale", "a fish"], 2)[:5]
    stored = make_clips(row, specs, tmp_path / "a", seed=3, batch_size=2)
    whole = np.concatenate(list(stored.batches()))
    assert whole.shape == (5, 5, 32, 32, 3) and whole.dtype == np.uint8
    assert len({clip.tobytes() for clip in whole}) == 5
    np.testing.assert_array_equal(stored.clip(3), whole[3])
    (stored.folder / "0001.npz").unlink()
    again = make_clips(row, specs, tmp_path / "a", seed=3, batch_size=2)
    np.testing.assert_array_equal(np.concatenate(list(again.batches())), whole)
    assert row_with(2.5).digest() != row.digest()
    first = stored.folder / "0000.npz"
    first.write_bytes(first.read_bytes()[:-40])  # as on a disk that was full
    make_clips(row, specs, tmp_path / "a", seed=3, batch_size=2)
    assert f"warning: {first}: the file is damaged, and made again.\n" in capsys.readouterr().err
    np.testing.assert_array_equal(np.concatenate(list(stored.batches())), whole)
    alone = make_clips(row, specs, tmp_path / "b", seed=3, batch_size=1)
    assert np.abs(np.concatenate(list(alone.batches())).astype(int) - whole).max() <= 1


def test_clips_of_no_numbers_are_refused(
    tiny_wan_folder: Path, make_student: MakeStudent, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    folder = make_student(tmp_path / "student", tiny_schedule)
    model, student = load_teacher(tiny_wan_folder), load_student(folder)
    for network in (model.transformer, student.model.transformer):
        next(network.parameters()).data.fill_(math.nan)
    section = TeacherRowConfig(key="teacher", model=str(tiny_wan_folder), steps=2, guidance_scale=1)
    own = StudentRowConfig(key="student", model=str(folder))
    size = student.model.shown_size(student.scheduler.schedule.target)
    for row in (teacher_row(section, model, PixelSize(5, 32, 32)), student_row(own, student, size)):
        with pytest.raises(ValueError, match=f"row '{row.key}': the model made values that are not numbers"):
            make_clips(row, prompt_requests(["a bee"], 1), tmp_path / "clips", seed=3, batch_size=1)
    assert not list((tmp_path / "clips").rglob("*.npz"))


@pytest.mark.parametrize("at", [0.0, 0.5, 0.9])
def test_a_file_that_changed_inside_is_named(at: float, tmp_path: Path) -> None:
    path = tmp_path / "0000.npz"
    store_arrays(path, {"frames": np.random.default_rng(0).integers(0, 255, (1, 2, 8, 8, 3), dtype=np.uint8)})
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    clips = StoredClips(tmp_path, (path,), 1, ("a bee",), 16.0)
    for read in (lambda: clips.clip(0), lambda: list(clips.batches())):
        with pytest.raises(ValueError, match=rf"^{path}: the file is damaged: .*\. Delete it and run"):
            read()
