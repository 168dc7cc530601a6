"""Runs the jobs of a queue, one at a time, each as a command of its own."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swd_video.files import FolderInUseError, together_in
from swd_video.studio.server.child import Child
from swd_video.studio.server.queue import Job, Queue

_LOOK_SECONDS = 0.15
"""Between two looks at a running command."""

_FOLDER_SECONDS = 1.0
"""Between two looks whether another run has left the folder."""

_END_SECONDS = 15.0
"""A command that is told to end has this long."""

_KEPT_LOGS = 50
_KEPT_LINES = 200


class Worker:
    """Works on a queue until it is told to end.

    Attributes:
        progress: What the running command said last, by kind of event, and `number`, its job's; empty between two jobs.
        said: Lines of the job in hand, or of the last one.
    """

    def __init__(
        self,
        queue: Queue,
        folder: Path,
        logs: Path,
        command: Callable[[Job], Sequence[str] | None],
        changed: Callable[[], None],
    ) -> None:
        """Make ready to work.

        `command` gives the words behind `swd-video` of a job, None where nothing is left to do; `changed` is called
        whenever there is something new to see.
        """
        self.progress: dict[str, Any] = {}
        self.said: list[str] = []
        self._queue, self._folder, self._logs = queue, folder, logs
        self._command, self._changed = command, changed
        self._child: Child | None = None
        self._in_use = str(FolderInUseError(folder.resolve()))
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """Look at the queue again."""
        self._awake.set()
        self._changed()

    async def work(self) -> None:
        """Work on the queue for good; cancel it to end, and call `end` then."""
        while True:
            self._awake.clear()
            if (job := self._queue.next()) is None:
                await self._awake.wait()
                continue
            try:
                await self._work_on(job)
            except (OSError, ValueError) as error:
                self._finish(job, "failed", str(error))
            self._child = None

    async def end(self) -> None:
        """Let the running command end where it is; its job waits for the next server."""
        child = self._child
        job = self._queue.next()
        if child is None or job is None or not child.is_running:
            return
        child.send(signal.SIGTERM)
        for _ in range(int(_END_SECONDS / _LOOK_SECONDS)):
            if not child.is_running:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            return  # the next server finds it at work
        job.state = "cancelled" if job.state == "stopping" else "waiting"
        job.pid = None
        self._save()

    def stop(self, job: Job, *, at_once: bool = False) -> None:
        """Cancel a job: one that runs finishes the clip in hand, or ends at once where it is told so or once more."""
        if job.state == "waiting":
            self._finish(job, "cancelled", "")
        elif job.is_alive:
            self._interrupt(job, at_once=at_once or job.state == "stopping")
            job.state = "stopping"
            self._save()
        self.wake()

    def leave_out(self, job: Job, shot: str, *, at_once: bool) -> None:
        """Cancel one shot of a job.

        `at_once` where it is the one in hand, whose next stages nobody wants.
        """
        if shot in job.skip or job.is_over:
            return
        job.skip = (*job.skip, shot)
        self._save()
        if job.state == "running":
            # The command begins anew without it, and takes up what is on the disk.
            self._interrupt(job, at_once=at_once)
            self._save()
        self.wake()

    def _interrupt(self, job: Job, *, at_once: bool) -> None:
        job.was_told = True
        if self._child is not None:
            # Not SIGINT twice: two that come while the device computes are taken as one.
            self._child.send(signal.SIGTERM if at_once else signal.SIGINT)

    async def _work_on(self, job: Job) -> None:
        log = self._logs / f"{job.number}.log"
        self.progress, self.said = {"number": job.number}, []
        child = Child(log, job.pid) if job.is_alive and job.pid else None
        if child is None or not (child.is_running or self._has_ended_well(child)):
            if job.state == "stopping":
                self._finish(job, "cancelled", "")
                return
            await self._wait_for_folder(job)
            if job.is_over:
                return
            if (command := self._command(job)) is None:
                self._finish(job, "cancelled", "")
                return
            self.progress, self.said = {"number": job.number}, []
            child = await Child.start(command, log)
            job.state, job.pid, job.was_told, job.message = "running", child.pid, False, ""
            job.started = job.started or time.time()
            self._save()
        self._child = child
        while True:
            running = child.is_running  # before reading: what it says last is read, too
            self._take_in(child.read())
            if not running:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        self._judge(job, child.exit_code)
        self._tidy_logs()

    def _has_ended_well(self, child: Child) -> bool:
        """Whether a command that another server started did all, though nobody was there to see it."""
        self._take_in(child.read())
        return bool(self.progress.get("done", {}).get("status") == "done")

    async def _wait_for_folder(self, job: Job) -> None:
        """Until no other command writes into the folder, or the job is cancelled."""
        while not job.is_over:
            try:
                with together_in(self._folder):
                    break
            except FolderInUseError:
                if not job.message:
                    job.message = "another run is writing into the folder: waits until it ends."
                    self._changed()
            with suppress(TimeoutError):
                self._awake.clear()
                await asyncio.wait_for(self._awake.wait(), _FOLDER_SECONDS)
        job.message = ""

    def _take_in(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            kind = event["event"]
            self.progress[kind] = event
            if kind in ("said", "note", "warning") or event.get("status") == "failed":
                self._say(str(event.get("text") or event.get("error") or ""))
            if "fraction" in event:
                self.progress["now"] = event
        if events:
            self._changed()

    def _say(self, line: str) -> None:
        self.said.append(line)
        del self.said[:-_KEPT_LINES]

    def _judge(self, job: Job, exit_code: int | None) -> None:
        done = self.progress.get("done", {})
        job.pid = None
        # Also one that was told to stop when nothing more was left to do.
        if exit_code == 0 or (exit_code is None and done.get("status") == "done"):
            self._finish(job, "done", str(done.get("text") or ""))
        elif job.state == "stopping":
            self._finish(job, "cancelled", "")
        elif job.was_told or exit_code is None or self._last_error(done) == self._in_use:
            # For a shot that is left out; or nobody saw how it ended: the same command again says what is left. Or
            # another run was loading its model meanwhile, and had the folder first.
            self._wait_again(job)
        elif exit_code < 0:
            self._finish(
                job, "failed", f"ended by {_signal_name(-exit_code)}. What is finished is kept: try again."
            )
        else:
            self._finish(job, "failed", self._last_error(done))

    def _last_error(self, done: dict[str, Any]) -> str:
        errors = [line.removeprefix("error: ") for line in self.said if line.startswith("error: ")]
        told = [*errors[-1:], done.get("error"), done.get("text"), *self.said[-1:]]
        return next((str(text) for text in told if text), "ended without a word. Try again.")

    def _wait_again(self, job: Job) -> None:
        job.state, job.was_told = "waiting", False
        # In front of the others.
        self._queue.jobs.remove(job)
        self._queue.jobs.insert(
            next((i for i, other in enumerate(self._queue.jobs) if not other.is_over), 0), job
        )
        self._save()

    def _finish(self, job: Job, state: Any, message: str) -> None:
        job.state, job.message, job.ended, job.pid = state, message, time.time(), None
        self._save()
        self.progress = {}
        self._changed()

    def _save(self) -> None:
        """Write the queue down. Where that fails the work goes on, and the next change writes all of it."""
        try:
            self._queue.save()
        except OSError as error:
            self._say(f"the queue is not written down: {error}. Make room.")

    def _tidy_logs(self) -> None:
        kept = {f"{job.number}.log" for job in self._queue.jobs[-_KEPT_LOGS:]}
        for log in self._logs.glob("*.log"):
            if log.name not in kept:
                log.unlink(missing_ok=True)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
