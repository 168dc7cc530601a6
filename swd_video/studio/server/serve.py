"""Opens a studio: one server for a folder, on an address of this machine."""

import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from filelock import FileLock, Timeout

from swd_video.files import check_writable, write_json
from swd_video.studio.folder import read_object
from swd_video.studio.server.app import make_app
from swd_video.studio.server.guard import is_loopback
from swd_video.studio.server.studio import PRIVATE, Studio

FIRST_PORT = 8500
_PORTS = 20
_LAST_PORT = 65535
_CLOSING_SECONDS = 1
"""Pages that look on are told to go after this."""


def serve(
    folder: Path,
    script: Path | None,
    *,
    host: str,
    port: int | None,
    flags: Sequence[str],
    reader: str | None,
    ready: Callable[[str], None],
    browse: bool,
) -> None:
    """Serve a folder until the process is told to end.

    Without a script it is the one that the folder worked on last; without a port that of the last time, else the first
    free one from `FIRST_PORT` on, and 0 is any free one. `flags` and `reader` are as for `Studio`. `ready` is given the
    page's address once it answers.

    Raises:
        ValueError: if the folder cannot be written to, or holds a queue that cannot be read.
        OSError: if another studio has the folder, or nothing can listen there.
    """
    if port is not None and not 0 <= port <= _LAST_PORT:
        raise ValueError(f"--port {port}: expected a port from 0 to {_LAST_PORT}; 0 is any free one.")
    if script is not None and script.is_dir():
        raise ValueError(f"{script}: is a folder, expected a script; give the file, and the folder as --out.")
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as told:
        studio = Studio(folder, script, flags, reader)
        listener = _listen(host, port, told)
        address = _address(host, listener.getsockname()[1])
        write_json(told, {"address": address, "port": listener.getsockname()[1]})
        config = uvicorn.Config(
            make_app(studio, host),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
            lifespan="on",
        )
        with listener:
            ready(address)
            if browse:
                webbrowser.open(address)
            _Server(config, studio.close).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Lets the pages that look on go before it waits for them to go."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        super().__init__(config)
        self._close, self._was_interrupted = close, False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets)
        if self._was_interrupted:
            # It is told once more to whoever waits for it, but where it is ignored, as in what a shell starts with `&`.
            raise KeyboardInterrupt

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._was_interrupted = self._was_interrupted or sig == signal.SIGINT
        self._close()
        super().handle_exit(sig, frame)


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Keeps other studios out of a folder; gives the file that says where this one is."""
    private = folder / PRIVATE
    private.mkdir(exist_ok=True)
    told = private / "address.json"
    try:
        held = FileLock(private / "lock", timeout=0).acquire()
    except Timeout:
        where = read_object(told).get("address")
        place = f" at {where}" if where else ""
        raise OSError(
            f"{folder}: another studio is open there{place}. Use that one, or choose another folder."
        ) from None
    with held:
        yield told


def _listen(host: str, port: int | None, told: Path) -> socket.socket:
    last = read_object(told).get("port")
    own = [last] if isinstance(last, int) and 0 < last <= _LAST_PORT else []
    ports = [*own, *range(FIRST_PORT, FIRST_PORT + _PORTS)] if port is None else [port]
    problem: OSError | None = None
    for number in ports:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen()
            return listener
        except (socket.gaierror, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no name of a machine"
            raise ValueError(f"--host {host}: {reason}. Give an address of this machine.") from None
        except OSError as error:
            problem = error
    assert problem is not None
    asked = f"--host {host}" if port is None else f"--port {port}"
    cure = "Use --port 0 for any free port." if port else "Give an address of this machine."
    raise OSError(f"{asked}: nothing can listen there: {problem.strerror}. {cure}")


def _address(host: str, port: int) -> str:
    name = host if is_loopback(host) else socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
