import json
from pathlib import Path

import numpy as np
import pytest

from swd_video.data.manifest import read_manifest
from swd_video.data.video import write_video
from tools import footage


def test_stretches_lie_evenly_inside_their_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, frames in (("long", 48), ("short", 13)):
        write_video(tmp_path / f"{name}.mp4", np.zeros((frames, 32, 32, 3), np.uint8), 8.0)
    monkeypatch.chdir(tmp_path)
    arguments = ["footage", "--videos", "long.mp4", "short.mp4", "--clips", "3", "--out", "cut/m.jsonl"]
    monkeypatch.setattr("sys.argv", arguments)
    footage.main()
    clips = read_manifest(tmp_path / "cut" / "m.jsonl")
    assert [(clip.path.name, clip.start, clip.end) for clip in clips] == [
        ("long.mp4", 0.25, 1.75),
        ("long.mp4", 2.25, 3.75),
        ("long.mp4", 4.25, 5.75),
        ("short.mp4", pytest.approx(0.0625, abs=1e-3), pytest.approx(1.5625, abs=1e-3)),
    ]
    assert all(clip.path.is_file() for clip in clips)
    assert json.loads((tmp_path / "cut" / "m.jsonl").read_text().splitlines()[0])["caption"] == "long"
