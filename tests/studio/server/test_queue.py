"""The queue is a file: what was asked for is there again, in its order."""

from pathlib import Path

import pytest

from swd_video.studio.server import queue as studio_queue
from swd_video.studio.server.queue import Queue


def test_what_was_asked_for_is_there_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    queue.add("draft", seeds=8)
    queue.add("again", ("tiger",))
    queue.script = "film.yaml"
    queue.jobs[0].state = "running"
    queue.jobs[0].pid = 7
    queue.save()
    again = Queue(tmp_path)
    assert again.jobs == queue.jobs
    assert again.script == "film.yaml"
    assert [path.name for path in tmp_path.iterdir()] == ["queue.json"]


def test_the_job_in_hand_comes_first_then_those_that_wait_in_their_order(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    first, second = queue.add("draft"), queue.add("finish")
    assert queue.next() is first
    second.state = "running"
    assert queue.next() is second
    first.state, second.state = "cancelled", "done"
    assert queue.next() is None


def test_the_same_that_waits_already_is_not_asked_for_twice(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    assert queue.add("finish") is queue.add("finish")
    assert queue.add("finish", ("tiger",)).number == 2
    queue.jobs[0].state = "running"
    assert queue.add("finish").number == 3


def test_old_ended_jobs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_queue, "_KEPT_JOBS", 2)
    queue = Queue(tmp_path)
    for shot in "abcd":
        queue.add("finish", (shot,)).state = "done"
    queue.add("film")
    assert [job.number for job in Queue(tmp_path).jobs] == [3, 4, 5]


_JOB = '{"number": 1, "kind": "draft", "asked": 1.0}'


def test_what_cannot_be_written_down_is_not_asked_for(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "gone")
    with pytest.raises(OSError):
        queue.add("draft")
    assert queue.jobs == []


def test_the_same_of_another_script_is_another(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    queue.add("finish", script="film.yaml")
    assert queue.add("finish", script="garden.yaml").number == 2
    assert [job.script for job in Queue(tmp_path).jobs] == ["film.yaml", "garden.yaml"]


def test_a_job_that_leaves_shots_out_is_another(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    queue.add("finish").skip = ("tiger",)
    assert queue.add("finish").number == 2


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"jobs": [{"number": 1, "kind": "sing"}]}', '{"jobs": 1}', "\xff", f'{{"jobs": [{_JOB}, {_JOB}]}}',
        '{"script": "../elsewhere.yaml"}', '{"script": "/etc/hostname"}',
        f'{{"jobs": [{_JOB[:-1]}, "state": "running", "pid": 0}}]}}',
    ],
)  # fmt: skip
def test_a_queue_that_cannot_be_read_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "queue.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"queue\.json: .*"):
        Queue(tmp_path)
    assert (tmp_path / "queue.json").read_bytes() == text.encode("latin-1")
