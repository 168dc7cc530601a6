"""Takes that were seen once are remembered, whatever happened to the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from swd_video.studio.server.history import History


def take(name: str, made: float = 1.0) -> dict[str, Any]:
    return {"id": name, "take": 1, "seed": 3, "prompt": name, "content_hash": f"of {name}", "made": made}


def test_takes_are_remembered_once_the_newest_first(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.record([take("tiger", 2.0), take("ghost", 1.0)])
    history.record([take("tiger", 2.0)])
    again = History(tmp_path / "history.jsonl")
    assert history.latest() == again.latest() == [take("tiger", 2.0), take("ghost", 1.0)]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"id": "fis',
        b"{}\xff",
        b"[1]",
        b'{"id": ["fish"]}',
        b'{"seed": NaN, "id": "a"}',
        b'{"prompt": "\\ud83d"}',
    ],
)
def test_a_damaged_line_loses_itself_alone(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "history.jsonl"
    History(file).record([take("tiger")])
    file.write_bytes(file.read_bytes() + damage)
    History(file).record([take("ghost")])
    assert [entry["id"] for entry in History(file).latest()] == ["ghost", "tiger"]
    for entry in History(file).latest():
        json.dumps(entry, allow_nan=False).encode()


def test_a_history_that_leads_elsewhere_is_neither_read_nor_written(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    History(elsewhere).record([take("tiger")])
    before = elsewhere.read_bytes()
    (tmp_path / "history.jsonl").symlink_to(elsewhere)
    history = History(tmp_path / "history.jsonl")
    assert history.latest() == []
    history.record([take("ghost")])
    assert elsewhere.read_bytes() == before


def test_what_cannot_be_written_now_is_written_the_next_time(tmp_path: Path) -> None:
    history = History(tmp_path / "later" / "history.jsonl")
    history.record([take("tiger")])
    assert history.latest() == []
    (tmp_path / "later").mkdir()
    history.record([take("tiger")])
    assert History(tmp_path / "later" / "history.jsonl").latest() == [take("tiger")]
