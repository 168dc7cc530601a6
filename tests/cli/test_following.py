"""What a run shows while it works, and how a signal ends it."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from swd_video.cli import following as cli_following
from swd_video.cli.following import following
from swd_video.cli.main import main
from swd_video.studio.progress import Progress
from swd_video.studio.script import Shot, Take

SCRIPT = "".join(f"- {{id: shot{number}, prompt: a tiger}}\n" for number in range(4))


@pytest.fixture
def arguments(tmp_path: Path, student_folder: Path) -> list[str]:
    path = tmp_path / "film.yaml"
    path.write_text(SCRIPT)
    places = ["--out", str(tmp_path / "out"), "--model", str(student_folder), "--device", "cpu"]
    return ["render", str(path), *places, "--json-progress"]


class Interrupting(io.StringIO):
    """A stderr that sends SIGINT when it is told of certain events, each once."""

    def __init__(self, *when: dict[str, Any]) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self._when = list(when)

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if not line.startswith("{"):
                self.lines += [line] if line else []
                continue
            self.events.append(json.loads(line))
            if self._when and self._when[0].items() <= self.events[-1].items():
                self._when.pop(0)
                os.kill(os.getpid(), signal.SIGINT)
        return len(text)


STAGE = {"event": "stage", "shot": "shot1", "stage": 1}


def test_sigint_once_finishes_the_clip_in_hand(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stderr, before = Interrupting(STAGE), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert main(arguments) == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert stderr.lines == ["error: interrupted. Run the same command again to go on."]
    kinds = [event["event"] for event in stderr.events]
    assert kinds == ["note", "plan", *["stage"] * 3, "clip", "stage", "note", *["stage"] * 2, "clip", "done"]
    assert stderr.events[7]["text"].endswith("Once more stops at once.")
    done = stderr.events[-1]
    assert (done["status"], done["done"], done["total"], done["error"]) == ("interrupted", 2, 4, None)
    out = tmp_path / "out"
    assert {path.name for path in out.glob("*.json")} == {"render.json", "shot0.json", "shot1.json"}
    assert not list(out.glob("*.latents.safetensors"))

    assert main([*arguments, "--only", "shot0", "shot3", "--json"]) == 0
    shots = json.loads(capsys.readouterr().out)["shots"]
    assert [shot["status"] for shot in shots] == ["skipped", "skipped", "pending", "rendered"]
    assert shots[2]["file"] is None


def test_sigint_twice_stops_at_once(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Interrupting(STAGE, {"event": "note", "done": 1})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert main(arguments) == 130
    assert [event["event"] for event in stderr.events[-3:]] == ["stage", "note", "done"]
    assert not (tmp_path / "out" / "shot1.json").exists()


def test_sigint_stops_at_once_while_there_is_no_clip_in_hand(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Interrupting({"event": "note"})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert main(arguments) == 130
    assert [(event["event"], event["status"]) for event in stderr.events[1:]] == [("done", "interrupted")]


def test_sigint_stops_at_once_when_all_clips_are_there(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Interrupting({"event": "clip", "done": 1})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert main([*arguments, "--only", "shot0"]) == 130
    assert [event["event"] for event in stderr.events[-2:]] == ["clip", "done"]
    assert (tmp_path / "out" / "shot0.json").exists()


def test_a_run_goes_on_when_nobody_listens_any_more(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert main([*arguments, "--only", "shot0"]) == 0
    assert (tmp_path / "out" / "shot0.json").is_file()


def test_wrong_input_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no such"), following(as_json=True):
        raise ValueError("no such\nmodel")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["status"], event["error"]) == ("done", "failed", "no such model")


def test_the_log_of_a_thousand_shots_is_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(cli_following.time, "monotonic", lambda: clock[0])
    takes = [Take(Shot(f"shot{number}", "a"), 1, 0) for number in range(1000)]
    with following() as (watch, _):
        progress = Progress(watch, now=lambda: clock[0])
        progress.warning("look here")
        progress.plan(1000, {take.name: [1, 2, 3] for take in takes[500:]}, "1000 clips, 500 to render")
        for number, take in enumerate(takes):
            if number < 500:
                progress.clip(take, "skipped", f"{take.name}: finished before")
                continue
            progress.begin()
            for stage in range(2):
                clock[0] += 3
                progress.stage(take, stage, 2)
            clock[0] += 6
            failed = number == 700
            progress.clip(take, "failed" if failed else "rendered", take.name, "why" * failed)
        progress.done("failed", "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "warning: look here",
        "1000 clips, 500 to render",
        "[1/1000] shot0: finished before",
    ]
    assert "[701/1000] shot700, 59:48 left" in lines
    assert lines[-1] == "[1000/1000] shot999"
    # 100 minutes: a line every 10 s for three minutes, and then one at every twentieth more.
    assert 60 < len(lines) < 110
    assert [line for line in lines if ": stage " in line and line.endswith(" left")]
