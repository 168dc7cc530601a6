"""Commands that run side by side until they are done or a time has come."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


def run_side_by_side(
    jobs: Mapping[str, Sequence[Sequence[str]]],
    logs: Path,
    deadline: float,
    environment: Mapping[str, str],
    done: Callable[[str, float], None],
) -> None:
    """Run the commands of all jobs at once; at the deadline those that still run are ended.

    Args:
        jobs: by name, the words behind `python -m` of each of its commands.
        logs: gets what they say, as `JOB-NUMBER.txt`.
        deadline: of `time.monotonic`.
        environment: variables to set.
        done: called with a job's name and its seconds once all of its commands have come to a good end.

    Raises:
        RuntimeError: if a command failed, after all others have ended; it shows the end of its log.
    """
    started = time.monotonic()
    threads = max(1, (os.cpu_count() or 1) // max(1, sum(map(len, jobs.values()))))
    variables = {"OMP_NUM_THREADS": str(threads), **os.environ, **environment}
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        running = {
            job: [
                stack.enter_context(_command(words, logs / f"{job}-{number}.txt", variables))
                for number, words in enumerate(commands)
            ]
            for job, commands in jobs.items()
        }
        while running:
            codes = {job: [process.poll() for process in processes] for job, processes in running.items()}
            for job in [job for job, ends in codes.items() if not any(end != 0 for end in ends)]:
                done(job, time.monotonic() - started)
                del running[job]
            ended = all(None not in codes[job] for job in running)
            if ended or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        failed = [
            (job, codes[job].index(end)) for job in running for end in codes[job] if end not in (None, 0)
        ]
    if failed:
        log = logs / f"{failed[0][0]}-{failed[0][1]}.txt"
        last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise RuntimeError(f"{failed[0][0]} failed; {log} ends with:\n{last}")


@contextmanager
def _command(
    words: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs while the block does; what is left of it then is ended, its own children too."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=file, stderr=file, env=dict(environment), process_group=0
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
