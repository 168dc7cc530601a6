"""The page that plays a folder: everything inside it or beside it, and texts as texts."""

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

from swd_video.studio.film import make_film
from swd_video.studio.player import write_player

from .film_folder import SCRIPT, write_folder

SPITEFUL = '</script><img src=x onerror=alert(1)> & \\"quotes\\"'


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="clips">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_clips_are_inside_the_page_or_beside_it_by_their_size(tmp_path: Path) -> None:
    make_film(write_folder(tmp_path), tmp_path)
    page = write_player(tmp_path).read_text()
    clips = embedded(page)
    assert set(clips) == {"red.mp4", "green.mp4", "green-take2.mp4", "blue.mp4", "film.mp4"}
    assert base64.b64decode(clips["red.mp4"]) == (tmp_path / "red.mp4").read_bytes()
    assert "it can be sent as it is" in page
    page = write_player(tmp_path, embedded_bytes=1000).read_text()
    assert embedded(page) == {}
    assert "files beside this page" in page
    assert page.count('data-file="red.mp4"') == 1
    assert not re.search(r'(?:src|href)="(?!\w+(?:-take\d)?\.mp4")', page), (
        "nothing is fetched from elsewhere"
    )


def test_takes_stand_in_playing_order_with_all_that_keeps_them(tmp_path: Path) -> None:
    script = write_folder(tmp_path, SCRIPT + "film: {order: [blue, green]}\n")
    make_film(script, tmp_path)
    page = write_player(tmp_path).read_text()
    headings = [" ".join(text.split()) for text in re.findall(r"<h3>(.*?)</h3>", page, flags=re.DOTALL)]
    assert headings == ["1. blue", "2. green", "red"]
    for take in script.takes():
        assert f"<code>{take.seed}</code> <code>pick: {take.take}</code>" in page
    assert page.count(", in the film") == 2


def test_a_take_that_is_kept_says_what_it_was_made_of(tmp_path: Path) -> None:
    write_folder(tmp_path)
    record = json.loads((tmp_path / "render.json").read_text())
    record["shots"][2] |= {"prompt": "a green hedge", "kept": True}
    (tmp_path / "render.json").write_text(json.dumps(record))
    page = write_player(tmp_path).read_text()
    assert page.count("<p>a green wall</p>") == 1
    assert page.count("of an earlier version of the shot: a green hedge") == 1


def test_texts_are_never_markup(tmp_path: Path) -> None:
    text = SCRIPT.replace("a blue wall", f'"{SPITEFUL}"').replace("Three colours", f'"{SPITEFUL}"')
    make_film(write_folder(tmp_path, text), tmp_path)
    page = write_player(tmp_path).read_text()
    assert "&lt;img src=x onerror" in page
    assert "<img" not in page
    assert page.count("</script>") == 2


def test_failed_and_missing_takes_say_so(tmp_path: Path) -> None:
    write_folder(tmp_path)
    record = json.loads((tmp_path / "render.json").read_text())
    record["shots"][0] |= {"file": None, "status": "failed", "error": "RuntimeError: no memory <left>"}
    record["shots"][1] |= {"file": None, "status": "pending"}
    (tmp_path / "render.json").write_text(json.dumps(record))
    page = write_player(tmp_path).read_text()
    assert "no memory &lt;left&gt;" in page
    assert "not rendered yet" in page


def test_a_thousand_shots_are_written_at_once_and_loaded_lazily(tmp_path: Path) -> None:
    write_folder(tmp_path)
    record = json.loads((tmp_path / "render.json").read_text())
    record["shots"] = [{**record["shots"][0], "id": f"shot-{number}"} for number in range(1000)]
    (tmp_path / "render.json").write_text(json.dumps(record))
    begun = time.perf_counter()
    page = write_player(tmp_path, embedded_bytes=1000).read_text()
    assert time.perf_counter() - begun < 5
    assert page.count('preload="none"') == 1000
    assert "<video src" not in page
    assert len(page) < 1_500_000


def test_a_damaged_report_shows_the_film_alone(tmp_path: Path) -> None:
    make_film(write_folder(tmp_path), tmp_path)
    for shots in (None, [1], {"red": 1}):
        (tmp_path / "render.json").write_text(json.dumps({"shots": shots}))
        assert "film.mp4" in write_player(tmp_path).read_text()
