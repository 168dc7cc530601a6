"""A tiny student on disk, loaded for rendering once, a script for it, and a browser for what is shown in one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from swd_video.core.schedule import ScaleSchedule
from swd_video.studio.model import ScriptModel, load_model_for_rendering
from tools.studio_page import BROWSER_VARIABLE, find_browser, open_browser

_BROWSER_WAIT_MS = 120_000

SCRIPT = """\
title: Two shots
seed: 5
shots:
  - id: tiger
    prompt: a tiger walking left
  - id: fish
    prompt: a fish staying on pink
    seconds: 0.3125
    takes: 2
"""


@pytest.fixture(scope="session")
def tiny_student(
    make_student: Callable[[Path, ScaleSchedule], Path],
    tiny_schedule: ScaleSchedule,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A whole-transformer student whose clips differ from the teacher's; do not write into it."""
    return make_student(tmp_path_factory.mktemp("students") / "tiny-student", tiny_schedule)


@pytest.fixture(scope="session")
def loaded(tiny_student: Path) -> ScriptModel:
    """The student, loaded once: rendering must not change it."""
    return load_model_for_rendering(str(tiny_student))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One that can be driven."""
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser to drive the page in: install chromium, or name one in {BROWSER_VARIABLE}")
    expect.set_options(timeout=_BROWSER_WAIT_MS)
    with open_browser(program) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in which nothing may go wrong unseen."""
    context = browser.new_context(viewport={"width": 1360, "height": 860})
    context.set_default_timeout(_BROWSER_WAIT_MS)
    page, problems = context.new_page(), list[str]()
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert not problems
