"""The worker runs real commands, one after another, and judges how they ended."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from swd_video.files import alone_in
from swd_video.studio.server.child import Child, ask
from swd_video.studio.server.queue import QUEUE_NAME, Job, Queue
from swd_video.studio.server.worker import Worker

from ..film_folder import write_folder


def worker_of(folder: Path, command: Callable[[Job], Sequence[str] | None]) -> Worker:
    logs = folder / ".studio"
    logs.mkdir(exist_ok=True)
    return Worker(Queue(folder), folder, logs, command, lambda: None)


async def until(holds: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def lasting(folder: Path) -> list[str]:
    """A command that goes on until it is told to end: another studio."""
    return ["studio", "--out", str(folder / "inner"), "--port", "0", "--no-open", "--json"]


def test_jobs_run_one_after_another_and_say_how_they_ended(tmp_path: Path) -> None:
    words = {"draft": ["--version"], "again": ["rendr"], "finish": ["render"], "film": None}
    worker = worker_of(tmp_path, lambda job: words[job.kind])
    for kind in ("draft", "again", "film", "finish"):
        worker._queue.add(kind)

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: all(job.is_over for job in worker._queue.jobs))
        task.cancel()

    asyncio.run(main())
    jobs = Queue(tmp_path).jobs
    assert [job.state for job in jobs] == ["done", "failed", "cancelled", "failed"]
    assert jobs[1].message == "no command 'rendr'. Did you mean `render`?"
    assert all(job.pid is None for job in jobs)


def test_a_job_that_runs_is_stopped_by_a_signal_and_one_that_waits_is_not_begun(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, lambda job: lasting(tmp_path))
    running, waiting = worker._queue.add("draft"), worker._queue.add("finish")

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: worker.said)
        worker.stop(waiting)
        worker.stop(running)
        assert running.state == "stopping"
        await until(lambda: running.is_over)
        task.cancel()

    asyncio.run(main())
    assert (running.state, waiting.state, waiting.started) == ("cancelled", "cancelled", None)


def test_a_queue_that_cannot_be_written_down_stops_no_work(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, lambda job: ["--version"])
    first, second = worker._queue.add("draft"), worker._queue.add("finish")
    (tmp_path / QUEUE_NAME).unlink()
    (tmp_path / QUEUE_NAME).mkdir()  # no file takes its place

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: first.is_over)
        (tmp_path / QUEUE_NAME).rmdir()
        await until(lambda: second.is_over)
        task.cancel()

    asyncio.run(main())
    assert [job.state for job in Queue(tmp_path).jobs] == ["done", "done"]


def test_a_server_that_ends_leaves_its_job_to_the_next(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, lambda job: lasting(tmp_path))
    worker._queue.add("draft")

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: worker.said)
        task.cancel()
        await worker.end()

    asyncio.run(main())
    (job,) = Queue(tmp_path).jobs
    assert (job.state, job.pid) == ("waiting", None)


def test_a_command_outlives_a_server_that_is_killed_and_the_next_one_takes_it_up(tmp_path: Path) -> None:
    first = worker_of(tmp_path, lambda job: lasting(tmp_path))
    first._queue.add("draft")

    async def main() -> None:
        task = asyncio.create_task(first.work())
        await until(lambda: first.said)
        task.cancel()  # nothing more is done: as if it had been killed
        begun: list[Job] = []
        second = worker_of(tmp_path, begun.append)
        (job,) = second._queue.jobs
        assert job.state == "running"
        task = asyncio.create_task(second.work())
        await until(lambda: second.said)
        assert not begun
        second.stop(job)
        await until(lambda: job.is_over)
        assert job.state == "cancelled"
        task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(("said", "begins"), [('{"event": "done", "status": "done"}\n', 0), ("", 1)])
def test_a_command_that_ended_unseen_is_begun_anew_unless_it_said_that_all_is_done(
    tmp_path: Path, said: str, begins: int
) -> None:
    queue = Queue(tmp_path)
    job = queue.add("draft")
    job.state, job.pid = "running", 2**22 + 1
    queue.save()
    begun: list[Job] = []
    worker = worker_of(tmp_path, lambda job: begun.append(job) or ["--version"])
    (tmp_path / ".studio" / "1.log").write_text(said)

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: worker._queue.jobs[0].is_over)
        task.cancel()

    asyncio.run(main())
    assert (len(begun), Queue(tmp_path).jobs[0].state) == (begins, "done")


def test_a_shot_that_is_left_out_begins_the_command_anew_without_it(tmp_path: Path) -> None:
    begun: list[tuple[str, ...]] = []
    worker = worker_of(
        tmp_path, lambda job: begun.append(job.skip) or (lasting(tmp_path) if len(begun) < 2 else None)
    )
    job = worker._queue.add("finish")

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: worker.said)
        worker.leave_out(job, "ghost", at_once=True)
        await until(lambda: job.is_over)
        task.cancel()

    asyncio.run(main())
    assert begun == [(), ("ghost",)]


def test_a_command_waits_until_another_run_has_left_the_folder(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, lambda job: ["--version"])
    job = worker._queue.add("finish")

    async def main() -> None:
        with alone_in(tmp_path):
            task = asyncio.create_task(worker.work())
            await until(lambda: job.message)
            assert (job.state, job.message.split(":")[0]) == (
                "waiting",
                "another run is writing into the folder",
            )
        worker.wake()
        await until(lambda: job.is_over)
        assert (job.state, job.message) == ("done", "")
        task.cancel()

    asyncio.run(main())


def test_a_command_waits_if_another_one_was_ahead_of_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    ahead, begun = ExitStack(), list[int]()

    def command(job: Job) -> list[str]:
        if not begun:  # until now it was loading its model
            ahead.enter_context(alone_in(tmp_path))
        begun.append(job.number)
        return ["film", str(tmp_path)]

    worker = worker_of(tmp_path, command)
    job = worker._queue.add("film")

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: begun and job.state == "waiting" and job.message, 240)
        assert job.message.startswith("another run is writing into the folder")
        ahead.close()
        worker.wake()
        await until(lambda: job.is_over, 240)
        task.cancel()

    with ahead:
        asyncio.run(main())
    assert (job.state, len(begun)) == ("done", 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_somebody_killed_failed_and_can_be_tried_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    worker = worker_of(tmp_path, lambda job: lasting(tmp_path))
    job = worker._queue.add("finish")

    async def main() -> None:
        task = asyncio.create_task(worker.work())
        await until(lambda: worker.said)
        assert worker._child is not None
        worker._child.send(number)
        await until(lambda: job.is_over)
        task.cancel()

    asyncio.run(main())
    assert job.state == "failed"
    assert number.name in job.message


@pytest.mark.parametrize(("exit_code", "state"), [(0, "done"), (130, "cancelled")])
def test_a_job_that_did_all_before_it_could_stop_is_done(tmp_path: Path, exit_code: int, state: str) -> None:
    worker = worker_of(tmp_path, lambda job: None)
    job = worker._queue.add("finish")
    job.state, job.was_told = "stopping", True
    worker._judge(job, exit_code)
    assert (job.state, Queue(tmp_path).jobs[0].state) == (state, state)


def test_what_a_command_says_is_read_once_in_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "1.log"
    log.write_text('{"event": "plan", "total": 3}\nhello\n {"event": 3}\n\rold\rnew\n{"event": "sta')
    child = Child(log, 1)
    assert not child.is_running
    assert child.read() == [
        {"event": "plan", "total": 3},
        {"event": "said", "text": "hello"},
        {"event": "said", "text": ' {"event": 3}'},
        {"event": "said", "text": "new"},
    ]
    with log.open("a") as file:
        file.write('ge", "stage": 1}\n')
    assert child.read() == [{"event": "stage", "stage": 1}]


def test_a_command_that_prints_no_object_is_refused_with_what_it_says() -> None:
    with pytest.raises(ValueError, match=r"^no command 'rendr'. Did you mean `render`\?$"):
        asyncio.run(ask(["rendr"]))
