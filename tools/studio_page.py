"""Make a moving picture of the studio's page: a script becomes drafts, picks and a film.

    python -m tools.studio_page --out docs/studio/page.webp

A studio is opened on a new folder and its page is driven in a browser, as a person would. It needs Chromium.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from swd_video.files import whole_file
from swd_video.studio.script import load_script

BROWSER_VARIABLE = "SWD_VIDEO_BROWSER"
"""Program of the browser, where it has another name."""

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WAIT_MS = 600_000
_LOOK_MS = 140
"""Between two pictures of the same state, so that what moves on the page moves here."""


@dataclass(frozen=True)
class Arguments:
    """What to show, and where to write."""

    out: Path
    """The picture, an animated WebP; its folder is made."""
    script: Path = Path("configs/scripts/walk.yaml")
    """Script to show."""
    seeds: int = 5
    """Takes of a shot that are drafted."""
    width: int = 1200
    """Of the picture, in pixels."""
    height: int = 760
    """Of the picture, in pixels."""


@dataclass
class Film:
    """Pictures of the page, each with how long it is shown."""

    page: Page
    pictures: list[Image.Image] = field(default_factory=list)
    milliseconds: list[int] = field(default_factory=list)

    def look(self, count: int = 1, hold: int = 0) -> None:
        """Take so many pictures one after another, and show the last one so many milliseconds longer."""
        for _ in range(count):
            self.pictures.append(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
            self.milliseconds.append(_LOOK_MS)
            self.page.wait_for_timeout(_LOOK_MS)
        self.milliseconds[-1] += hold

    def save(self, path: Path) -> None:
        """Write the moving picture."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            first, *rest = self.pictures
            first.save(
                draft,
                "WEBP",
                save_all=True,
                append_images=rest,
                duration=self.milliseconds,
                loop=0,
                quality=55,
                method=6,
                minimize_size=True,
            )


def find_browser() -> str | None:
    """The program of a browser that can be driven; None where there is none."""
    return os.environ.get(BROWSER_VARIABLE) or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as driver:
        # A browser that root starts has no sandbox of its own; it opens nothing but our page.
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Server:
    """A studio in a folder, which can be ended and opened again."""

    def __init__(self, folder: Path, *flags: str) -> None:
        """Make ready; nothing is started yet.

        Args:
            folder: Of the studio.
            flags: Further words of the command.
        """
        self.folder = folder
        self.address = ""
        self._flags = flags

    def open(self) -> None:
        """Start it, and wait until it listens; the second time it is where it was the first time."""
        command = [
            sys.executable,
            "-m",
            "swd_video.cli.main",
            "studio",
            *self._flags,
            "--out",
            str(self.folder),
        ]
        command += ["--no-open", "--json", *(() if self.address else ("--port", "0"))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        address = json.loads(self._process.stdout.readline())["address"]
        assert self.address in ("", address)
        self.address = address

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal; by this one, the command that runs ends with it."""
        self._process.send_signal(number)
        self._process.communicate()


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    """A studio that is open."""
    server = Server(folder, *flags)
    server.open()
    try:
        yield server
    finally:
        server.end()


def film_the_page(page: Page, script: str, seeds: int, shots: Sequence[str]) -> Film:
    """Go from a script to a film, and take pictures on the way."""
    film = Film(page)
    page.wait_for_selector("#text:enabled")
    film.look(hold=600)
    lines = script.splitlines(keepends=True)
    page.fill("#name", "film.yaml")
    for count in range(1, len(lines) + 1, max(1, len(lines) // 10)):
        page.fill("#text", "".join(lines[:count]))
        film.look()
    page.fill("#text", script)
    page.fill("#seeds", str(seeds))
    film.look(hold=900)
    page.click("#draft")
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        _wait_for(page, ".badge.draft", int(share * seeds * len(shots)))
        film.look(2)
    _wait_for(page, ".badge.draft", seeds * len(shots))
    expect(page.locator("#now")).to_be_hidden(timeout=_WAIT_MS)
    film.look(8, hold=500)
    for index, shot in enumerate(shots):
        page.locator(f"#shot-{shot} .picture").nth((index * 2 + 1) % seeds).click()
        if index < 3:
            film.look(3)
    page.wait_for_timeout(1500)
    film.look(hold=600)
    page.click("#finish")
    for share in (0.1, 0.4, 0.7, 1):
        _wait_for(page, ".badge.finished", int(share * len(shots)))
        film.look(3)
    expect(page.locator("#now")).to_be_hidden(timeout=_WAIT_MS)
    film.look(6, hold=400)
    page.click("#film")
    page.click("[data-tab=films]")
    page.wait_for_selector("#film-player", timeout=_WAIT_MS)
    page.locator("#film-player").evaluate(
        "video => { video.muted = true; video.loop = true; return video.play(); }"
    )
    film.look(24)
    return film


def _wait_for(page: Page, selector: str, count: int) -> None:
    while page.locator(selector).count() < count:
        page.wait_for_timeout(100)


def main() -> None:
    """Open a studio, drive its page, and write the picture."""
    arguments = tyro.cli(Arguments, description=__doc__)
    program = find_browser()
    if program is None:
        sys.exit(f"error: no browser. Install chromium, or name one in {BROWSER_VARIABLE}.")
    script = arguments.script.read_text(encoding="utf-8")
    shots = [shot.id for shot in load_script(arguments.script).shots]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "film") as server,
        open_browser(program) as browser,
    ):
        page = browser.new_page(viewport={"width": arguments.width, "height": arguments.height})
        page.goto(server.address)
        film = film_the_page(page, script, arguments.seeds, shots)
    film.save(arguments.out)
    print(f"{len(film.pictures)} pictures, {arguments.out.stat().st_size / 1e6:.2f} MB: {arguments.out}")


if __name__ == "__main__":
    main()
