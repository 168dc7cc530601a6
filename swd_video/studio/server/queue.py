"""The queue of a folder: what was asked for, in `queue.json`, which is written whole after every change."""

import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from swd_video.files import write_beside_runs
from swd_video.plain_text import on_one_line, read_text

QUEUE_NAME = "queue.json"

Kind = Literal["draft", "again", "finish", "film"]
State = Literal["waiting", "running", "stopping", "done", "failed", "cancelled"]

_KEPT_JOBS = 200
"""So many ended jobs stay listed."""


class Job(BaseModel):
    """One command to run on the folder.

    Attributes:
        number: counts the jobs of a folder from 1.
        script: the file that it is about, as the studio names it; empty for whichever there is.
        kind: "draft" and "again" make drafts, of all shots or more of some; "finish" renders; "film" joins the clips.
        shots: ids of the only shots meant; empty for all.
        skip: ids of shots that were cancelled.
        seeds: how many takes of each shot are drafted; None leaves it to the command.
        state: what became of it.
        asked: when, in seconds since 1970, as the other times.
        message: what is to be said about it, in one line.
        pid: the process that runs it.
        was_told: whether the process was told to end.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    number: int = Field(ge=1)
    script: str = ""
    kind: Kind
    shots: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seeds: int | None = Field(default=None, ge=1, le=1000)
    state: State = "waiting"
    asked: float = 0.0
    started: float | None = None
    ended: float | None = None
    message: str = ""
    pid: int | None = Field(default=None, ge=2)  # 0 and below are whole groups of processes
    was_told: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def is_alive(self) -> bool:
        """Whether a process works on it."""
        return self.state in ("running", "stopping")


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")

    script: str | None = None
    jobs: list[Job] = []

    @field_validator("script")
    @classmethod
    def _lies_in_the_folder(cls, script: str | None) -> str | None:
        """What a folder says may be anybody's, and the page shows this file, and writes it."""
        if script is not None and (Path(script).is_absolute() or ".." in Path(script).parts):
            raise ValueError("leads out of the folder")
        return script

    @field_validator("jobs")
    @classmethod
    def _can_be_told_apart(cls, jobs: list[Job]) -> list[Job]:
        if len({job.number for job in jobs}) < len(jobs):
            raise ValueError("two have the same number")
        return jobs


def first_problem(error: ValidationError) -> str:
    """What is wrong first, in one line."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return on_one_line(f"{where}: {first['msg']}" if where else first["msg"])


class Queue:
    """The jobs of a folder, in the order in which they are run, and the script that they are about."""

    def __init__(self, folder: Path) -> None:
        """Take up what the folder holds.

        Raises:
            ValueError: if `queue.json` there is none.
        """
        self._file = folder / QUEUE_NAME
        self._stored = _read(self._file)

    @property
    def jobs(self) -> list[Job]:
        """All jobs, ended ones included."""
        return self._stored.jobs

    @property
    def script(self) -> str | None:
        """Path of the script, from the folder on."""
        return self._stored.script

    @script.setter
    def script(self, path: str) -> None:
        self._stored.script = path
        self.save()

    def save(self) -> None:
        """Write all of it; call it after a job has changed."""
        over = [job for job in self.jobs if job.is_over]
        for job in over[: max(0, len(over) - _KEPT_JOBS)]:
            self.jobs.remove(job)
        write_beside_runs(self._file, self._stored.model_dump_json(indent=2) + "\n")

    def add(self, kind: Kind, shots: tuple[str, ...] = (), seeds: int | None = None, script: str = "") -> Job:
        """Ask for something; the same that waits already is not asked for twice.

        Raises:
            OSError: if it cannot be written down; then it is not asked for.
        """
        asked = (script, kind, shots, (), seeds)
        for job in self.jobs:
            if job.state == "waiting" and (job.script, job.kind, job.shots, job.skip, job.seeds) == asked:
                return job
        number = max((job.number for job in self.jobs), default=0) + 1
        job = Job(number=number, script=script, kind=kind, shots=shots, seeds=seeds, asked=time.time())
        self.jobs.append(job)
        try:
            self.save()
        except OSError:
            self.jobs.remove(job)
            raise
        return job

    def find(self, number: int) -> Job | None:
        """The job of this number."""
        return next((job for job in self.jobs if job.number == number), None)

    def next(self) -> Job | None:
        """What is to be worked on now: a job that a process has in hand, else the first that waits."""
        alive = [job for job in self.jobs if job.is_alive]
        waiting = [job for job in self.jobs if job.state == "waiting"]
        return next(iter([*alive, *waiting]), None)


def _read(file: Path) -> _Stored:
    try:
        return _Stored.model_validate_json(read_text(file))
    except FileNotFoundError:
        return _Stored()
    except ValidationError as error:
        raise ValueError(f"{file}: {first_problem(error)}. Correct it, or move it away.") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
