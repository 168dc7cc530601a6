"""The routes of the page: each takes plain values, asks the studio, and answers with plain values."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from swd_video.studio.server.download import zip_of
from swd_video.studio.server.folder import SERVED
from swd_video.studio.server.guard import FILE_POLICY, Guard
from swd_video.studio.server.queue import Kind, first_problem
from swd_video.studio.server.script_file import (
    FORMS,
    MAX_BYTES,
    ChangedMeanwhileError,
    version_of,
    with_line_ends_of_a_page,
)
from swd_video.studio.server.studio import Studio, UnknownError

_PAGE = Path(__file__).parent / "page"


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Text(_Asked):
    text: Annotated[str, Field(max_length=MAX_BYTES), AfterValidator(with_line_ends_of_a_page)]
    name: str = Field(max_length=200)


class _Save(_Text):
    based_on: str = ""


class _Pick(_Asked):
    shot: str
    take: int
    picked: bool


class _Job(_Asked):
    kind: Kind
    shots: list[str] = []
    seeds: int | None = Field(default=None, ge=1, le=100)


class _Change(_Asked):
    what: Literal["stop", "again", "leave_out"]
    shot: str = ""


class _Nothing(_Asked):
    pass


_Kind = TypeVar("_Kind", bound=_Asked)


class App:
    """Answers for one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[Route | Mount]:
        """All addresses."""
        return [
            Route("/", self._page),
            Mount("/page", StaticFiles(directory=_PAGE)),
            Route("/files/{name:path}", self._file),
            Route("/download.zip", self._download),
            Route("/api/state", self._state),
            Route("/api/news", self._news),
            Route("/api/look", self._look, methods=["POST"]),
            Route("/api/check", self._check, methods=["POST"]),
            Route("/api/script", self._save, methods=["POST"]),
            Route("/api/pick", self._pick, methods=["POST"]),
            Route("/api/jobs", self._ask, methods=["POST"]),
            Route("/api/jobs/stop", self._stop_all, methods=["POST"]),
            Route("/api/jobs/{number:int}", self._change, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        path = self._studio.folder.file(name)
        if path is None:
            return _problem(f"{name}: there is no such file here.", 404)
        headers = {"Content-Security-Policy": FILE_POLICY}
        kept = path.name if "download" in request.query_params else None
        return FileResponse(path, media_type=SERVED[path.suffix.lower()], headers=headers, filename=kept)

    async def _download(self, request: Request) -> Response:
        name = f"{self._studio.folder.path.resolve().name or 'studio'}.zip"
        return StreamingResponse(
            zip_of(_with_script(self._studio)),
            media_type="application/zip",
            headers={"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"},
        )

    async def _state(self, request: Request) -> Response:
        state = await run_in_threadpool(self._studio.state)
        return JSONResponse(state | {"forms": FORMS})

    async def _news(self, request: Request) -> Response:
        async def lines() -> AsyncIterator[str]:
            async for news in self._studio.stream():
                yield ":\n\n" if news is None else f"data: {json.dumps(news)}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _look(self, request: Request) -> Response:
        asked = await _read(request, _Text)
        look = await run_in_threadpool(self._studio.script.look_at, asked.text, asked.name)
        shots = len(look.script.shots) if look.script else 0
        return JSONResponse({"problems": look.problems, "warnings": look.warnings, "shots": shots})

    async def _check(self, request: Request) -> Response:
        await _read(request, _Nothing)
        return JSONResponse(await self._studio.check())

    async def _save(self, request: Request) -> Response:
        asked = await _read(request, _Save)
        self._studio.save(asked.text, asked.name, asked.based_on)
        return JSONResponse({"name": self._studio.script.path.name, "version": version_of(asked.text)})

    async def _pick(self, request: Request) -> Response:
        asked = await _read(request, _Pick)
        self._studio.pick(asked.shot, asked.take, asked.picked)
        return JSONResponse({})

    async def _ask(self, request: Request) -> Response:
        asked = await _read(request, _Job)
        job = self._studio.ask(asked.kind, asked.shots, asked.seeds)
        return JSONResponse({"number": job.number})

    async def _stop_all(self, request: Request) -> Response:
        await _read(request, _Nothing)
        self._studio.stop_all()
        return JSONResponse({})

    async def _change(self, request: Request) -> Response:
        asked, number = await _read(request, _Change), request.path_params["number"]
        if asked.what == "stop":
            self._studio.stop(number)
        elif asked.what == "leave_out":
            self._studio.leave_out(number, asked.shot)
        else:
            number = self._studio.try_again(number).number
        return JSONResponse({"number": number})


def _tell_failure(task: asyncio.Task[None]) -> None:
    """Say at once on the terminal what ended a task that never ends."""
    if not task.cancelled() and (error := task.exception()) is not None:
        told = {
            "message": "part of the studio has stopped; start it again.",
            "exception": error,
            "task": task,
        }
        task.get_loop().call_exception_handler(told)


def make_app(studio: Studio, host: str) -> Starlette:
    """The application that serves a studio to pages that were opened from `host`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        works = (studio.worker.work(), studio.watch(), studio.compare())
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(_tell_failure)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
            await studio.worker.end()

    def wrong(request: Request, error: Exception) -> Response:
        if isinstance(error, ChangedMeanwhileError):
            return JSONResponse({"error": str(error), "version": error.version}, 409)
        return _problem(str(error), 404 if isinstance(error, UnknownError) else 400)

    def failed(request: Request, error: Exception) -> Response:
        return _problem(str(error), 500)

    return Starlette(
        routes=App(studio).routes(),
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={ValueError: wrong, OSError: failed},
        lifespan=lifespan,
    )


async def _read(request: Request, kind: type[_Kind]) -> _Kind:
    """What a page sent.

    Raises:
        ValueError: if it is not what is expected there.
    """
    # Another site's form cannot send this type without being asked about first.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ValueError("expected JSON, with the Content-Type application/json.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > 4 * MAX_BYTES:
            raise ValueError(f"expected at most {4 * MAX_BYTES} bytes.")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def _problem(text: str, code: int) -> Response:
    return JSONResponse({"error": text}, code)


def _with_script(studio: Studio) -> Iterator[tuple[str, Path]]:
    names = set()
    for name, path in studio.folder.files():
        names.add(name)
        yield name, path
    script = studio.script.path
    if script.is_file() and script.name not in names:
        yield script.name, script
