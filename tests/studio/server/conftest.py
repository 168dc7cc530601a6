"""A studio in an empty folder, and a page's client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from swd_video.studio.server.app import make_app
from swd_video.studio.server.studio import Studio

SCRIPT = """\
title: Two shots
seed: 5
shots:
  - id: tiger
    prompt: a tiger moving left on a green meadow
    takes: 2
  - id: ghost
    prompt: <b>a ghost</b> floating up at night
"""


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """With a script of its own."""
    (tmp_path / "film.yaml").write_text(SCRIPT)
    out = tmp_path / "out"
    out.mkdir()
    return Studio(out, tmp_path / "film.yaml")


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    """Asks as a page would that came from the server; nothing works on the queue."""
    # Not entered as a context: that would start the worker.
    yield TestClient(make_app(studio, "127.0.0.1"), base_url="http://127.0.0.1:8500")
