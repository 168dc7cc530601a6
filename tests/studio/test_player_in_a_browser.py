"""The player in a real browser: it plays, finds and seeks, and loads what is in sight alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from swd_video.studio.film import make_film
from swd_video.studio.player import write_player

from .film_folder import write_folder

LOADED = "[...document.querySelectorAll('.takes video')].filter(video => video.hasAttribute('src')).length"


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """A page that asks for nothing but files."""
    page.set_viewport_size({"width": 1200, "height": 800})
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
    yield page
    assert not asked


@pytest.mark.parametrize("embedded_bytes", [10**9, 0])
def test_the_film_and_takes_play_inside_the_page_and_beside_it(
    page: Page, tmp_path: Path, embedded_bytes: int
) -> None:
    make_film(write_folder(tmp_path), tmp_path)
    page.goto(write_player(tmp_path, embedded_bytes).as_uri())
    page.wait_for_function("document.getElementById('film').readyState > 1")
    assert page.evaluate("document.getElementById('film').duration") == pytest.approx(51 / 16, abs=0.01)
    page.get_by_role("button", name="2 green").click()
    page.wait_for_function("document.getElementById('film').currentTime >= 17 / 16")
    expect(page.locator("button.now")).to_contain_text(["green"])
    page.locator(".takes video").first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.takes video').currentTime > 0.1")


def test_of_a_thousand_shots_those_in_sight_are_loaded(page: Page, tmp_path: Path) -> None:
    write_folder(tmp_path)
    record = json.loads((tmp_path / "render.json").read_text())
    record["shots"] = [{**record["shots"][0], "id": f"shot-{number}"} for number in range(1000)]
    (tmp_path / "render.json").write_text(json.dumps(record))
    page.goto(write_player(tmp_path, 0).as_uri())
    page.wait_for_function(f"{LOADED} > 0")
    assert page.evaluate(LOADED) < 40
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('.shot:last-child video').readyState > 1")
    assert page.evaluate(LOADED) < 80
    assert not page.evaluate("document.querySelector('.takes video').hasAttribute('src')"), "let go of"
    page.fill("#search", "SHOT-99")
    assert page.locator(".shot:not([hidden])").count() == 11
