"""The page's addresses: what is shown, and what can be asked for."""

import asyncio
import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from swd_video.studio.server import queue as studio_queue
from swd_video.studio.server.script_file import FORMS, version_of
from swd_video.studio.server.studio import Studio

from .conftest import SCRIPT
from .test_folder import finish


def refused(answer: "object") -> str:
    assert 400 <= answer.status_code < 500, answer  # type: ignore[attr-defined]
    return str(answer.json()["error"])  # type: ignore[attr-defined]


def test_the_page_and_its_parts_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for part in ("page.js", "page.css", "icon.svg", "dom.js", "editor.js", "takes.js", "lists.js"):
        assert client.get(f"/page/{part}").status_code == 200
    assert client.get("/page/../app.py").status_code == 404


def test_the_state_is_the_script_and_the_folder(client: TestClient, studio: Studio) -> None:
    state = client.get("/api/state").json()
    assert state["script"]["text"] == SCRIPT
    assert [(shot["id"], shot["prompt"]) for shot in state["shots"]] == [
        ("tiger", "a tiger moving left on a green meadow"),
        ("ghost", "<b>a ghost</b> floating up at night"),
    ]
    studio.script.path.write_text("- a tiger\n- 3: 4\n")
    state = client.get("/api/state").json()
    assert state["shots"] == []
    assert state["script"]["problems"][0]["line"] == 2


def test_a_script_is_looked_at_without_being_saved(client: TestClient, studio: Studio) -> None:
    seen = client.post("/api/look", json={"text": "- a tiger\n- a ghost\n", "name": "film.yaml"}).json()
    assert seen == {"problems": [], "warnings": [], "shots": 2}
    assert studio.script.text() == SCRIPT


def test_the_model_is_asked_what_a_script_would_become(client: TestClient, studio: Studio) -> None:
    studio.script.path.write_text("- a tiger moving left\n- a tiger and a fox\n")
    found = client.post("/api/check", json={}).json()
    assert found["problems"] == []
    assert [(warning["line"], "'fox'" in warning["text"]) for warning in found["warnings"]] == [(2, True)]
    assert (found["model"], found["shots"], found["clips"]) == ("pocket-wan-swd", 2, 2)
    studio.script.path.write_text("- a tiger\n- 3: 4\n")
    assert refused(client.post("/api/check", json={})).startswith("film.yaml, line 2: ")


def test_the_model_is_asked_which_takes_are_of_the_script_as_it_is(
    client: TestClient, studio: Studio
) -> None:
    def older() -> list[bool]:
        takes = [take for shot in client.get("/api/state").json()["shots"] for take in shot["takes"]]
        return [take["clip"]["older"] for take in takes if take["clip"]]

    look = studio.script.look_at(studio.script.text())
    assert look.script is not None
    take = next(look.script.takes())
    finish(studio.folder.path, take.shot.id, take.take, take.seed, take.shot.prompt)
    assert older() == [False]
    asyncio.run(studio.compare_once())
    assert older() == [True], "prompt and seed are the same, and it was made of something else"
    studio.script.path.write_text(f"{SCRIPT}# another version, of which nothing is known yet\n")
    assert older() == [False]


def test_who_saves_over_somebody_elses_text_is_asked_first(client: TestClient, studio: Studio) -> None:
    version = client.get("/api/state").json()["script"]["version"]
    asked = {"text": "- one\n", "name": "film.yaml", "based_on": version}
    assert client.post("/api/script", json=asked).json()["name"] == "film.yaml"
    answer = client.post("/api/script", json=asked | {"text": "- two\n"})
    assert answer.status_code == 409
    asked |= {"text": "- two\n", "based_on": answer.json()["version"]}
    assert client.post("/api/script", json=asked).status_code == 200
    assert studio.script.text() == "- two\n"


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_a_script_with_other_line_ends_is_not_changed_before_it_is_touched(
    client: TestClient, studio: Studio, line_end: str
) -> None:
    studio.script.path.write_text(SCRIPT.replace("\n", line_end), newline="")
    script = client.get("/api/state").json()["script"]
    assert script["text"] == SCRIPT, "a text field of a browser knows no other line ends"
    asked = {"text": f"- one{line_end}- two", "name": "film.yaml", "based_on": script["version"]}
    saved = client.post("/api/script", json=asked).json()
    assert saved["version"] == client.get("/api/state").json()["script"]["version"]


def test_a_script_in_no_folder_is_refused_as_it_could_not_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"film\.yaml: there is no folder .*none\. Make it"):
        Studio(tmp_path, tmp_path / "none" / "film.yaml")


def test_a_new_script_in_the_folder_is_found_again(client: TestClient, studio: Studio) -> None:
    client.post("/api/script", json={"text": "- one\n", "name": "garden.yaml"})
    path = studio.folder.path
    again = Studio(path, None)
    assert again.script.path == path / "garden.yaml"
    assert again.state()["shots"][0]["prompt"] == "one"


@pytest.mark.parametrize(
    ("named", "found_again"),
    [
        ("film.yaml", "film.yaml"), ("../out/film.yaml", "film.yaml"), ("{out}/film.yaml", "film.yaml"),
        ("link.yaml", "link.yaml"), ("../film.yaml", "script.txt"), ("{out}/../film.yaml", "script.txt"),
    ],
)  # fmt: skip
def test_a_saved_script_is_found_again_where_it_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, found_again: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for folder in (tmp_path, out):
        (folder / "film.yaml").write_text("- one\n")
    (out / "link.yaml").symlink_to(tmp_path / "film.yaml")
    monkeypatch.chdir(out)
    studio = Studio(Path(), Path(named.format(out=out)))
    studio.save("- two\n", studio.script.path.name, version_of("- one\n"))
    assert Studio(Path(), None).script.path == Path(found_again)


def test_a_pick_is_a_line_of_picks_json_and_the_scripts_own_counts_more(
    client: TestClient, studio: Studio
) -> None:
    picks = studio.folder.path / "picks.json"
    finish(studio.folder.path, "tiger", 9, 1, "a tiger")
    for take, picked in ((2, True), (9, True), (2, False)):
        assert (
            client.post("/api/pick", json={"shot": "tiger", "take": take, "picked": picked}).status_code
            == 200
        )
    assert json.loads(picks.read_text()) == {"tiger": [9]}
    client.post("/api/pick", json={"shot": "tiger", "take": 9, "picked": False})
    assert json.loads(picks.read_text()) == {}
    for shot, take in (("../x", 1), ("tiger", 0), ("tiger:1", 2), ("tiger", 8)):
        refused(client.post("/api/pick", json={"shot": shot, "take": take, "picked": True}))
    assert json.loads(picks.read_text()) == {}
    studio.script.path.write_text(SCRIPT.replace("takes: 2", "pick: 2"))
    assert "`pick`" in refused(client.post("/api/pick", json={"shot": "tiger", "take": 1, "picked": True}))


def test_jobs_are_asked_for_cancelled_and_tried_again(client: TestClient, studio: Studio) -> None:
    assert client.post("/api/jobs", json={"kind": "draft", "seeds": 8}).json() == {"number": 1}
    assert client.post("/api/jobs", json={"kind": "again", "shots": ["tiger"]}).json() == {"number": 2}
    assert client.post("/api/jobs/2", json={"what": "leave_out", "shot": "tiger"}).status_code == 200
    assert client.post("/api/jobs/1", json={"what": "stop"}).status_code == 200
    jobs = client.get("/api/state").json()["jobs"]
    assert [(job["kind"], job["state"], job["skip"]) for job in jobs] == [
        ("draft", "cancelled", []),
        ("again", "waiting", ["tiger"]),
    ]
    assert client.post("/api/jobs/1", json={"what": "again"}).json() == {"number": 3}
    client.post("/api/jobs/stop", json={})
    assert {job.state for job in studio.queue.jobs} == {"cancelled"}


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"kind": "sing"}, "kind"),
        ({"kind": "draft", "seeds": 0}, "seeds"),
        ({"kind": "draft", "flags": ["--out", "/"]}, "flags"),
        ({"kind": "finish", "shots": ["--out"]}, "no such shot"),
        ({"kind": "again"}, "name the shots"),
        ({"kind": "finish", "seeds": 3}, "seeds: "),
        ({"kind": "film", "shots": ["tiger"]}, "shots: "),
        ([], "object"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(
    client: TestClient, asked: object, problem: str
) -> None:
    assert problem in refused(client.post("/api/jobs", json=asked))
    assert client.get("/api/state").json()["jobs"] == []


def test_jobs_that_are_not_there_are_refused(client: TestClient) -> None:
    assert client.post("/api/jobs/7", json={"what": "stop"}).status_code == 404


def test_nothing_is_asked_for_while_the_script_has_a_problem(client: TestClient, studio: Studio) -> None:
    studio.script.path.write_text("- a tiger\n- 3: 4\n")
    assert refused(client.post("/api/jobs", json={"kind": "finish"})).startswith("film.yaml, line 2: ")
    studio.script.path.write_text("")
    assert "empty" in refused(client.post("/api/jobs", json={"kind": "finish"}))


def test_jobs_become_commands_of_the_command_line(studio: Studio, tmp_path: Path) -> None:
    script, out = str(tmp_path / "film.yaml"), str(tmp_path / "out")
    ask, command = studio.queue.add, studio._command
    assert command(ask("draft", seeds=3)) == [
        "draft", script, "--out", out, "--json-progress", "--seeds", "3",
    ]  # fmt: skip
    assert command(ask("again", ("tiger",))) == [
        "draft", script, "--out", out, "--json-progress", "--again", "tiger",
    ]  # fmt: skip
    job = ask("finish", ("tiger", "ghost"))
    job.skip = ("ghost",)
    assert command(job) == [
        "render", script, "--out", out, "--json-progress", "--previews",
        "--only", "tiger", "--only", "ghost", "--skip", "ghost",
    ]  # fmt: skip
    job.skip = ("tiger", "ghost")
    assert command(job) is None
    flagged = Studio(tmp_path / "out", None, ("--device", "cpu"), "a:B")
    assert flagged.script.path == tmp_path / "out" / "script.txt"


def test_a_job_is_not_run_on_another_script_than_it_was_asked_of(studio: Studio, tmp_path: Path) -> None:
    job = studio.ask("finish")
    assert job.script == (tmp_path / "film.yaml").as_posix()
    studio.save("- a whale\n", "whale.yaml", "")
    with pytest.raises(ValueError, match=r"asked of .*film\.yaml, and the studio has another script now"):
        studio._command(job)
    again = studio.ask("finish")
    assert (again.script, studio._command(again) is not None) == ("whale.yaml", True)


def test_a_script_in_the_folder_that_was_only_opened_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text("- one\n")
    Studio(tmp_path, tmp_path / "film.yaml")
    assert Studio(tmp_path, None).script.path == tmp_path / "film.yaml"


def test_everything_is_cancelled_though_old_jobs_go_meanwhile(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio_queue, "_KEPT_JOBS", 2)
    for kind in ("draft", "film"):
        studio.queue.add(kind).state = "done"
    waiting = [studio.ask("finish", [shot]) for shot in ("tiger", "ghost")]
    waiting.append(studio.ask("finish"))
    studio.stop_all()
    assert [job.state for job in waiting] == ["cancelled"] * 3


def test_files_of_the_folder_are_served_in_parts_and_cannot_act(client: TestClient, studio: Studio) -> None:
    folder = studio.folder.path
    finish(folder, "tiger", 1, 1, "a tiger")
    (folder / "player.html").write_text("<script>alert(1)</script>")
    part = client.get("/files/tiger.mp4", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"ict", "video/mp4")
    assert "attachment" in client.get("/files/tiger.mp4?download").headers["content-disposition"]
    assert (
        client.get("/files/player.html")
        .headers["content-security-policy"]
        .startswith("sandbox allow-scripts; ")
    )
    for name in ("../film.yaml", "%2e%2e/film.yaml", "..%2ffilm.yaml", "/etc/hostname", "%2fetc%2fhostname"):
        assert client.get(f"/files/{name}").status_code == 404, name


def test_everything_is_in_the_zip_once(client: TestClient, studio: Studio) -> None:
    finish(studio.folder.path, "tiger", 1, 1, "a tiger")
    os.utime(studio.folder.path / "tiger.mp4", (0, 0))  # archives know no time before 1980
    answer = client.get("/download.zip")
    assert "out.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["tiger.json", "tiger.mp4", "tiger.webp", "film.yaml"]
        assert archive.read("tiger.mp4") == b"picture"


def test_scripts_of_every_form_are_handed_out(client: TestClient, studio: Studio) -> None:
    names = [f"old.{suffix}" for suffix in (*FORMS, "yml")] + ["LOUD.YAML"]
    for name in names:
        (studio.folder.path / name).write_text("a tiger")
        assert client.get(f"/files/{name}").text == "a tiger", name
    assert {name for name, _ in studio.folder.files()} == set(names)


def test_takes_that_were_replaced_stay_in_the_history(client: TestClient, studio: Studio) -> None:
    finish(studio.folder.path, "tiger", 1, 1, "a tiger")
    client.get("/api/state")
    finish(studio.folder.path, "tiger", 1, 1, "a lion")
    client.get("/api/state")
    with (studio.folder.path / ".studio" / "history.jsonl").open("a") as file:
        file.write('{"id": "cut sho')
    again = Studio(studio.folder.path, studio.script.path).state()["history"]
    assert [(entry["prompt"], entry["seed"]) for entry in again] == [("a lion", 1), ("a tiger", 1)]


def test_every_page_is_told_what_is_new(studio: Studio) -> None:
    async def main() -> None:
        one, two = studio.stream(), studio.stream()
        assert (await anext(one))["jobs"] == (await anext(two))["jobs"] == []  # type: ignore[index]
        studio.ask("film")
        for stream in (one, two):
            news = await asyncio.wait_for(anext(stream), 5)
            assert news is not None and [job["kind"] for job in news["jobs"]] == ["film"]

    asyncio.run(main())
