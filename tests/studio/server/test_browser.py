"""The page in a real browser: a story from a script to a film, and what a page must not let happen."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from swd_video.data.video import probe_video
from tools.studio_page import Server, serving


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For tests that leave nothing in the queue."""
    with serving(tmp_path_factory.mktemp("studio")) as server:
        yield server


def write(page: Page, text: str, name: str = "film.yaml") -> None:
    page.fill("#name", name)
    page.fill("#text", text)
    page.click("#save")
    expect(page.locator("#save")).to_have_text("Saved")


def plays(page: Page, video: str) -> None:
    """Whether a video moves on: no script of ours can wait in the page, whose policy forbids it."""
    for _ in range(100):
        if page.locator(video).evaluate("video => video.currentTime") > 0.1:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{video} does not play")


def test_problems_stand_at_their_line_and_a_text_survives_a_closed_page(page: Page, server: Server) -> None:
    page.goto(server.address)
    page.fill("#name", "film.yaml")
    page.fill("#text", "shots:\n  - id: tiger\n    promt: a tiger\n")
    expect(page.locator("#problems li")).to_contain_text("line 3")
    expect(page.locator("#problems li")).to_contain_text("Did you mean `prompt`?")
    expect(page.locator("#gutter .problem")).to_have_text("3")
    page.reload()
    expect(page.locator("#text")).to_have_value("shots:\n  - id: tiger\n    promt: a tiger\n")
    page.fill("#text", "- a tiger moving left\n- a ghost at night\n")
    expect(page.locator("#count")).to_have_text("2 shots")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("a tiger moving left", exact=True)).to_be_visible()
    assert (server.folder / "film.yaml").read_text() == "- a tiger moving left\n- a ghost at night\n"


def test_markup_in_a_script_stays_text(page: Page, server: Server) -> None:
    page.goto(server.address)
    nasty = "<img src=x onerror=hacked=1><script>hacked=1</script>"
    write(page, f'title: "<b>{nasty}"\nshots:\n  - id: tiger\n    prompt: "{nasty}"\n')
    expect(page.locator("#shot-tiger .prompt")).to_have_text(nasty)
    expect(page.locator("#title")).to_have_text(f"<b>{nasty}")
    assert page.locator("main img, main script, h1 *").count() == 0
    assert page.evaluate("typeof hacked") == "undefined"
    # And were it none, the browser would not run it.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=/no onerror=\"hacked=1\">')")
    page.wait_for_timeout(100)
    assert page.evaluate("typeof hacked") == "undefined"


def test_a_second_tab_sees_the_same_and_cannot_spoil_a_text(page: Page, server: Server) -> None:
    page.goto(server.address)
    write(page, "- a tiger\n")
    other = page.context.new_page()
    other.goto(server.address)
    expect(other.locator("#text")).to_have_value("- a tiger\n")
    write(page, "- a tiger moving left\n")
    expect(other.locator("#text")).to_have_value("- a tiger moving left\n")
    other.fill("#text", "- mine\n")
    write(page, "- theirs\n")
    expect(other.locator("#conflict")).to_be_visible()
    other.click("#save")
    expect(other.locator("#told")).to_contain_text("somebody else saved it")
    expect(page.locator("#text")).to_have_value("- theirs\n")
    other.click("#overwrite")
    expect(page.locator("#text")).to_have_value("- mine\n")
    expect(other.locator("#conflict")).to_be_hidden()


def test_a_dropped_script_is_shown_and_saved_under_its_name(page: Page, server: Server) -> None:
    page.goto(server.address)
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["prompt,id\\na tiger moving left,cat\\n"], "shots.csv"));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }"""
    )
    expect(page.locator("#form")).to_have_text("CSV")
    page.click("#save")
    expect(page.locator("#shot-cat .id")).to_have_text("cat")
    assert (server.folder / "shots.csv").is_file()


SCRIPT = """\
title: Two shots
seed: 5
shots:
  - id: tiger
    prompt: a tiger moving left on a green meadow
  - id: ghost
    prompt: a ghost floating up at night
"""


def power_cut(server: Server) -> None:
    """The server and its command are killed, at whatever they are; a quick command may be done by then."""
    jobs = json.loads((server.folder / "queue.json").read_text())["jobs"]
    server.end(signal.SIGKILL)
    for pid in [job["pid"] for job in jobs if job["pid"]]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_from_a_script_to_a_film(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "out", "--device", "cpu") as server:
        page.goto(server.address)
        write(page, SCRIPT)
        page.fill("#seeds", "2")
        page.click("#draft")
        # Something else waits meanwhile, and is cancelled.
        page.locator("#shot-ghost").get_by_text("Finish").click()
        page.click("[data-tab=queue]")
        page.locator("[data-job='2']").get_by_text("Cancel").click()
        expect(page.locator("[data-job='2']")).to_contain_text("cancelled")
        page.click("[data-tab=takes]")
        expect(page.locator("[data-take='tiger:1'] .badge.draft")).to_be_visible()

        power_cut(server)
        expect(page.locator("#lost")).to_be_visible()
        first = (server.folder / "drafts" / "tiger.webp").stat().st_mtime_ns
        server.open()
        expect(page.locator("#lost")).to_be_hidden()
        expect(page.locator(".badge.draft")).to_have_count(4)
        assert (server.folder / "drafts" / "tiger.webp").stat().st_mtime_ns == first, "no draft is made twice"

        for take in ("tiger:2", "ghost:1"):
            page.locator(f"[data-take='{take}'] .picture").click()
        expect(page.locator("#finish-what")).to_have_text("2 picked takes")
        assert json.loads((server.folder / "picks.json").read_text()) == {"tiger": [2], "ghost": [1]}
        page.click("#finish")
        expect(page.locator(".badge.finished")).to_have_count(2)
        page.locator("[data-take='tiger:2'] .small").click()
        plays(page, "#viewer video")
        page.click("#viewer-close")
        assert probe_video(server.folder / "tiger-take2.mp4").frames == 17

        page.click("#film")
        page.click("[data-tab=films]")
        page.wait_for_selector("#film-player")
        page.locator("#film-player").evaluate("video => { video.muted = true; return video.play(); }")
        plays(page, "#film-player")
        assert probe_video(server.folder / "film.mp4").frames == 34
        page.click("[data-tab=history]")
        expect(page.locator("#history tbody tr")).to_have_count(2)
