"""One open studio: the folder, its script, its queue and who works on it, as the page sees and changes them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swd_video.studio.picks import pick_takes, read_picks
from swd_video.studio.script import Script
from swd_video.studio.server.child import ask
from swd_video.studio.server.folder import Folder, describe_others, describe_shots
from swd_video.studio.server.history import History
from swd_video.studio.server.queue import Job, Kind, Queue
from swd_video.studio.server.script_file import ScriptFile, at_line, version_of
from swd_video.studio.server.worker import Worker

PRIVATE = ".studio"
"""Folder in the studio's: what only the server reads."""

_WATCH_SECONDS = 1.0
"""Between two looks whether files changed: the command line may work in the folder as well."""

_QUIET_SECONDS = 15.0
"""A stream of news says so often that it is still there."""

_NEWS_SECONDS = 0.1
"""Between two pieces of news."""


class UnknownError(ValueError):
    """There is no such job, shot or take."""


class Studio:
    """What the page asks for. Its methods raise ValueError, with one line for people, for what cannot be."""

    def __init__(
        self, path: Path, script: Path | None, flags: Sequence[str] = (), reader: str | None = None
    ) -> None:
        """Open a folder.

        Args:
            path: The folder, which is there and can be written to.
            script: The script; None for the one in the folder that was worked on last, else a new one.
            flags: Of the command line, passed on to `draft` and `render`: model, device and so on.
            reader: Of the script, as for `load_script`.

        Raises:
            ValueError: if the folder's queue or its script cannot be read, or the script could not be saved.
        """
        if script is not None and not script.parent.is_dir():
            raise ValueError(
                f"{script}: there is no folder {script.parent}. Make it, or name another script."
            )
        self.folder = Folder(path)
        private = path / PRIVATE
        private.mkdir(exist_ok=True)
        self.queue = Queue(path)
        self._flags = flags
        self._history = History(private / "history.jsonl")
        file = script or path / (self.queue.script or "script.txt")
        self.script = ScriptFile(path, file, reader)
        self.script.text()
        with suppress(OSError):  # a full disk keeps nobody from looking
            self._remember_script()
        self.worker = Worker(self.queue, path, private, self._command, self.changed)
        self._files = 0
        self._news = asyncio.Event()
        self._closed = False
        self._checking = asyncio.Lock()
        self._compared: tuple[Any, ...] = ()
        self._content_hashes: tuple[str, dict[str, str]] = "", {}  # of a version of the script
        self._seen: tuple[Any, ...] = ()

    # What there is.

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, as plain values."""
        text = self.script.text()
        look = self.script.look_at(text)
        clips, drafts = self.folder.clips(), self.folder.drafts()
        self._history.record(clips.values())
        script = look.script
        version = version_of(text)
        known_of, hashes = self._content_hashes
        hashes = hashes if known_of == version else {}
        problems, picks = look.problems, {}
        try:
            picks = read_picks(self.folder.path)
        except ValueError as error:
            problems = (*problems, {"line": 0, "text": str(error)})
        return {
            "folder": str(self.folder.path.resolve()),
            "script": {
                "name": self.script.path.name,
                "text": text,
                "version": version,
                "title": script.title if script else "",
                "model": script.model if script else "",
                "problems": problems,
                "warnings": look.warnings,
            },
            "shots": describe_shots(script, clips, drafts, picks, hashes) if script else [],
            "others": describe_others(script, clips, drafts),
            "history": self._history.latest(),
            "films": self.folder.films(),
            **self.news(),
        }

    def news(self) -> dict[str, Any]:
        """What changes often; `files` counts the changes of everything else."""
        return {
            "files": self._files,
            "jobs": [job.model_dump(exclude={"pid"}) for job in self.queue.jobs],
            "progress": self.worker.progress,
            "said": self.worker.said[-30:],
        }

    async def stream(self) -> AsyncIterator[dict[str, Any] | None]:
        """News whenever there are some until the studio is closed, the present state first; None now and then."""
        while not self._closed:
            news = self._news
            yield self.news()
            await asyncio.sleep(_NEWS_SECONDS)
            while not news.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _QUIET_SECONDS)
                    break
                yield None

    def close(self) -> None:
        """End all streams of news."""
        self._closed = True
        self.changed()

    def changed(self) -> None:
        """Tell all pages that there is something new."""
        self._news.set()
        self._news = asyncio.Event()

    async def watch(self) -> None:
        """Look at the files for good."""
        while True:
            self._look_at_files()
            await asyncio.sleep(_WATCH_SECONDS)

    def _look_at_files(self) -> None:
        with suppress(OSError):
            script = self.script.path.stat() if self.script.path.exists() else None
            seen = (
                self.folder.signature(),
                script and (script.st_mtime_ns, script.st_size),
                self.script.path,
            )
            if seen != self._seen:
                self._seen = seen
                self._files += 1
                self.changed()

    async def compare(self) -> None:
        """Find out for good which takes are of the script as it is: whenever other ones may be."""
        seen = -1
        while True:
            if seen != self._files and self.queue.next() is None:
                seen = self._files
                with suppress(ValueError, OSError):  # asked for by the user, it would be told
                    await self.compare_once()
            await asyncio.sleep(_WATCH_SECONDS)

    async def compare_once(self) -> None:
        """Ask the model what the takes in the folder would be made of, if that may be another than was known.

        Raises:
            ValueError: if it cannot say.
        """
        text, clips = self.script.text(), self.folder.clips()
        script, takes = self.script.look_at(text).script, {*clips, *self.folder.drafts()}
        if script is None or not takes:
            return
        # What continues another depends on that one's file.
        continued = {shot.continues for shot in script.shots}
        files = {key: clip.get("mark") for key, clip in clips.items() if key[0] in continued}
        picks = {key: numbers for key, numbers in read_picks(self.folder.path).items() if key in continued}
        wanted = version_of(text), takes, files, picks
        if wanted == self._compared:
            return
        self._compared = wanted
        self._content_hashes = wanted[0], (await self._ask_to_check())["content_hashes"]
        self._files += 1
        self.changed()

    # What is asked for.

    async def check(self) -> dict[str, Any]:
        """What the saved script would become, as `swd-video check` says: problems and warnings with their lines."""
        self._checked()
        found, path = await self._ask_to_check(), self.script.path.resolve()
        told = {key: [at_line(line, path) for line in found[key]] for key in ("problems", "warnings")}
        about = {key: found[key] for key in ("model", "shots", "seconds", "finished", "memory", "time")}
        return {**told, **about, "clips": len(found["clips"])}

    async def _ask_to_check(self) -> dict[str, Any]:
        script, out = str(self.script.path.resolve()), str(self.folder.path.resolve())
        async with self._checking:
            return await ask(["check", script, "--out", out, "--json", *self._flags, *self._read_by()])

    def save(self, text: str, name: str, based_on: str) -> None:
        """Save the script, and go on with it."""
        self.script.save(text, name, based_on)
        self._remember_script()
        self._look_at_files()

    def _remember_script(self) -> None:
        name = self._script_name()
        # One elsewhere is named by the command line: no queue may lead out of its folder.
        if not Path(name).is_absolute() and self.script.path.exists() and name != self.queue.script:
            self.queue.script = name

    def _script_name(self) -> str:
        """The script's path, from the folder on where it lies there."""
        # Both resolved: `../film.yaml` is relative to `.`.
        path = self.script.path.parent.resolve() / self.script.path.name
        folder = self.folder.path.resolve()
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

    def pick(self, shot: str, take: int, picked: bool) -> None:
        """Pick a take, or no longer."""
        numbers = set(read_picks(self.folder.path).get(shot, ()))
        numbers = numbers | {take} if picked else numbers - {take}
        texts = [f"{shot}:{number}" for number in sorted(numbers)] or [f"{shot}:none"]
        pick_takes(self._checked(), self.folder.path, texts)
        self._look_at_files()

    def ask(self, kind: Kind, shots: Sequence[str] = (), seeds: int | None = None) -> Job:
        """Put a job into the queue."""
        self._check_shots(shots)
        if kind == "again" and not shots:
            raise ValueError("more seeds: name the shots that they are for.")
        if seeds is not None and kind not in ("draft", "again"):
            raise ValueError("seeds: are drawn for drafts alone. Drop them.")
        if shots and kind == "film":
            raise ValueError("shots: a film has all of its script, or its `order`. Drop them.")
        job = self.queue.add(kind, tuple(shots), seeds, self._script_name())
        self.worker.wake()
        return job

    def stop(self, number: int) -> None:
        """Cancel a job; once more ends it at once."""
        self.worker.stop(self._job(number))

    def stop_all(self) -> None:
        """Cancel everything, the clip in hand included."""
        for job in [*self.queue.jobs]:  # saving drops old ones
            if not job.is_over:
                self.worker.stop(job, at_once=True)

    def leave_out(self, number: int, shot: str) -> None:
        """Cancel one shot of a job."""
        job = self._job(number)
        self._check_shots([shot])
        now = self.worker.progress.get("now", {})
        # A stage or a clip that was told last belongs to the shot in hand, or to the one before it.
        at_once = now.get("event") == "stage" and now.get("shot") == shot
        self.worker.leave_out(job, shot, at_once=at_once)

    def try_again(self, number: int) -> Job:
        """Ask once more for what failed or was cancelled."""
        job = self._job(number)
        if not job.is_over:
            raise ValueError(f"job {number} is not over.")
        return self.ask(job.kind, job.shots, job.seeds)

    def _job(self, number: int) -> Job:
        if (job := self.queue.find(number)) is None:
            raise UnknownError(f"there is no job {number}.")
        return job

    def _check_shots(self, asked: Sequence[str]) -> None:
        known = {shot.id for shot in self._checked().shots}
        for shot_id in asked:
            if shot_id not in known:
                raise UnknownError(f"{shot_id}: the script has no such shot.")

    def _checked(self) -> Script:
        look = self.script.look_at(self.script.text())
        if look.script is None:
            problem = look.problems[0] if look.problems else {"line": 1, "text": "it is empty."}
            raise ValueError(f"{self.script.path.name}, line {problem['line']}: {problem['text']}")
        return look.script

    def _command(self, job: Job) -> Sequence[str] | None:
        """The words behind `swd-video` of a job; None where nothing is left to do."""
        if job.script not in ("", self._script_name()):
            raise ValueError(
                f"it was asked of {job.script}, and the studio has another script now. Open that one and try again."
            )
        out = str(self.folder.path.resolve())
        script = str(self.script.path.resolve())
        if job.kind == "film":
            return ["film", out, script, *self._read_by()]
        shots = [shot.id for shot in self._checked().shots]
        if not [shot for shot in job.shots or shots if shot not in job.skip and shot in shots]:
            return None
        drafts = job.kind in ("draft", "again")
        command = ["draft" if drafts else "render", script, "--out", out, "--json-progress"]
        command += [*([] if drafts else ["--previews"]), *self._flags, *self._read_by()]
        if job.seeds is not None:
            command += ["--seeds", str(job.seeds)]
        flag = "--again" if job.kind == "again" else "--only"
        for name, values in ((flag, job.shots), ("--skip", job.skip)):
            for shot in values:
                if shot in shots:
                    command += [name, shot]
        return command

    def _read_by(self) -> list[str]:
        reader = self.script.reader_of_path()
        return ["--reader", reader] if reader else []
