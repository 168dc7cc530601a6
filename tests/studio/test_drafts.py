"""Drafts: what is kept, what is shown, and that finishing one is what it would have been without it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swd_video.data.video import probe_video, read_video_metadata
from swd_video.studio import draft_sheet, drafts
from swd_video.studio.draft_report import DraftReport
from swd_video.studio.picks import pick_takes
from swd_video.studio.render import render
from swd_video.studio.script import Script
from swd_video.studio.yaml_script import parse_script

TEXT = """\
title: Two shots
seed: 5
shots:
  - id: tiger
    prompt: a tiger walking left
  - id: fish
    prompt: a fish staying on pink
    seconds: 0.3125
"""


def script(text: str = TEXT) -> Script:
    return parse_script(text, "film.yaml")


def draft(out: Path, loaded: Any, text: str = TEXT, **options: Any) -> DraftReport:
    return drafts.draft(script(text), out, **({"model": loaded, "seeds": 3, "stages": 2} | options))


def probe_text(video: Path) -> str:
    return read_video_metadata(video)["prompt"]


def statuses(report: DraftReport) -> dict[str, str]:
    return {result.clip.name: result.status for result in report.results}


def clip_files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*") if path.suffix in (".mp4", ".webp")}


@pytest.fixture
def ran(loaded: Any) -> Iterator[list[int]]:
    """How many clips each call of the transformer was given."""
    calls: list[int] = []
    hook = loaded.pipe.model.transformer.register_forward_pre_hook(
        lambda _module, _inputs, named: calls.append(len(named["hidden_states"])), with_kwargs=True
    )
    yield calls
    hook.remove()


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory, loaded: Any) -> tuple[Path, DraftReport]:
    """Three drafts of each shot, that tests look at and do not touch."""
    out = tmp_path_factory.mktemp("drafted") / "out"
    return out, draft(out, loaded)


def test_every_take_is_shown_and_said(drafted: tuple[Path, DraftReport]) -> None:
    out, report = drafted
    assert set(statuses(report).values()) == {"drafted"} and len(report.results) == 6
    names = {f"{shot}{take}" for shot in ("tiger", "fish") for take in ("", "-take2", "-take3")}
    suffixes = (".webp", ".json", ".latents.safetensors")
    assert {path.name for path in (out / "drafts").iterdir()} == {f"{n}{s}" for n in names for s in suffixes}
    assert {path.name for path in out.iterdir()} == {"drafts", "drafts.html", "drafts.png", "drafts.json"}
    # A draft has the size and the frames of its stage, and lasts as long as its clip.
    tiger = probe_video(out / "drafts" / "tiger-take2.webp")
    assert (tiger.frames, tiger.width, tiger.height) == (9, 32, 32)
    assert tiger.frames / tiger.fps == pytest.approx(9 / 16, abs=0.01)
    written = json.loads((out / "drafts.json").read_text())
    assert written["takes"] == {"tiger": 3, "fish": 3}
    assert (written["stages"], written["batch"]) == (2, 1)
    entry = written["drafts"][1]
    sidecar = json.loads((out / "drafts" / "tiger-take2.json").read_text())
    for key in ("id", "take", "prompt", "seed", "stage"):
        assert entry[key] == sidecar[key]
    assert (entry["file"], entry["stage"], entry["stages"]) == ("drafts/tiger-take2.webp", 2, 3)
    assert entry["seconds"] > 0 and entry["status"] == "drafted" and entry["picked"] is False
    assert 0 < written["cost"]["share"] < 1 and written["cost"]["drafts"] == 6
    assert Image.open(out / "drafts.png").height > 300


def test_a_page_shows_prompts_as_text(tmp_path: Path, loaded: Any) -> None:
    text = TEXT.replace("a tiger walking left", '"a <script>alert(1)</script> tiger"')
    draft(tmp_path, loaded, text, seeds=1)
    page = (tmp_path / "drafts.html").read_text()
    assert "a &lt;script&gt;alert(1)&lt;/script&gt; tiger" in page and "<script" not in page
    assert page.count("data:image/webp;base64,") == 2


@pytest.mark.parametrize("how", ["picked by hand", "in the script"])
def test_a_draft_is_finished_to_the_bytes_of_a_render_and_no_stage_runs_twice(
    tmp_path: Path, loaded: Any, ran: list[int], how: str
) -> None:
    draft(tmp_path / "drafted", loaded)
    assert ran == [1] * 6 * 2
    if how == "in the script":
        final = TEXT.replace("  - id: tiger\n", "  - id: tiger\n    pick: 3\n")
        final = final.replace("  - id: fish\n", "  - id: fish\n    pick: [1, 2]\n")
    else:
        pick_takes(script(), tmp_path / "drafted", ["tiger:3", "fish:1", "fish:2"])
        final = TEXT
    ran.clear()
    report = render(script(final), tmp_path / "drafted", model=loaded)
    assert [result.status for result in report.results] == ["rendered"] * 3
    assert ran == [1] * 3, "the last stage of each"
    plain = TEXT.replace("  - id:", "  - takes: 3\n    id:")
    render(script(plain), tmp_path / "plain", model=loaded)
    finished, expected = clip_files(tmp_path / "drafted"), clip_files(tmp_path / "plain")
    assert {"tiger-take3.mp4", "fish.mp4", "fish-take2.mp4"} <= set(finished) and len(finished) == 6
    assert all(expected[name] == data for name, data in finished.items() if name != "drafts.png")


def test_takes_computed_together_are_those_of_renders_in_such_batches(
    tmp_path: Path, loaded: Any, ran: list[int]
) -> None:
    report = draft(tmp_path / "drafted", loaded, batch=2)
    # Three takes of each size: batches that are not full are filled up.
    assert ran == [2] * 2 * 2 * 2
    pick_takes(script(), tmp_path / "drafted", ["tiger:3", "fish:2"])
    ran.clear()
    lines: list[str] = []
    finished = render(script(), tmp_path / "drafted", model=loaded, say=lines.append)
    assert ran == [2, 2] and [result.status for result in finished.results] == ["rendered"] * 2
    assert any(line.startswith("2 takes at a time: ") for line in lines)
    plain = script(TEXT.replace("  - id:", "  - takes: 3\n    id:"))
    render(plain, tmp_path / "together", model=loaded, batch=2)
    render(plain, tmp_path / "alone", model=loaded, batch=1)
    made, together, alone = (clip_files(tmp_path / name) for name in ("drafted", "together", "alone"))
    for name in ("tiger-take3.mp4", "tiger-take3.webp", "fish-take2.mp4"):
        assert made[name] == together[name]
    sidecars = [
        json.loads((tmp_path / name / "fish-take2.json").read_text()) for name in ("drafted", "alone")
    ]
    assert sidecars[0]["batch"] == 2 and "batch" not in sidecars[1]
    assert sidecars[0]["content_hash"] != sidecars[1]["content_hash"]
    assert report.batch == 2 and set(alone) == set(together)


def test_a_take_that_is_finished_is_not_drafted(tmp_path: Path, loaded: Any, ran: list[int]) -> None:
    render(script(), tmp_path, model=loaded)
    ran.clear()
    report = draft(tmp_path, loaded, seeds=2)
    made = {"tiger": "finished", "tiger-take2": "drafted", "fish": "finished", "fish-take2": "drafted"}
    assert statuses(report) == made and len(ran) == 2 * 2
    assert {path.stem for path in (tmp_path / "drafts").glob("*.json")} == {"tiger-take2", "fish-take2"}
    written = json.loads((tmp_path / "drafts.json").read_text())
    entry = written["drafts"][0]
    assert (entry["file"], entry["stage"], entry["status"]) == ("tiger.webp", 3, "finished")
    assert written["cost"]["drafts"] == 2 and "2 finished" in report.summary()
    assert (tmp_path / "drafts.html").read_text().count("data:image/webp;base64,") == 4
    assert statuses(draft(tmp_path, loaded, seeds=1, again=["tiger"]))["tiger-take3"] == "drafted"


def test_kept_takes_outlive_the_script(tmp_path: Path, loaded: Any, ran: list[int]) -> None:
    text = TEXT.replace("  - id: tiger\n", "  - id: tiger\n    takes: 2\n    keep: 2\n")
    render(script(text), tmp_path, model=loaded)
    draft(tmp_path, loaded, text, seeds=2, only=["tiger"])
    before = clip_files(tmp_path)
    changed = text.replace("walking left", "walking right").replace("seed: 5", "seed: 6")
    ran.clear()
    report = render(script(changed), tmp_path, model=loaded)
    assert [result.status for result in report.results] == ["rendered", "skipped", "rendered"] and len(
        ran
    ) == 6
    after = clip_files(tmp_path)
    assert {name for name in before if before[name] == after[name]} >= {"tiger-take2.mp4", "tiger-take2.webp"}
    entry = json.loads((tmp_path / "render.json").read_text())["shots"][1]
    assert (entry["prompt"], entry["kept"]) == ("a tiger walking left", True)
    row = report.results[1].sheet_row(tmp_path)
    assert (row.prompt, row.details) == (
        "a tiger walking left", f"{entry['seconds']:.3g} s   seed {entry['seed']}   kept as it was",
    )  # fmt: skip
    ran.clear()
    drafted = draft(tmp_path, loaded, changed, seeds=2, only=["tiger"])
    assert statuses(drafted) == {"tiger": "finished", "tiger-take2": "finished"} and not ran
    assert "of an earlier version of the shot: a tiger walking left" in (tmp_path / "drafts.html").read_text()


def test_a_kept_draft_of_an_edited_shot_is_shown_and_not_finished(
    tmp_path: Path, loaded: Any, ran: list[int]
) -> None:
    text = TEXT.replace("  - id: tiger\n", "  - id: tiger\n    keep: 2\n    pick: 2\n")
    draft(tmp_path, loaded, text, seeds=2)
    changed = text.replace("walking left", "walking right")
    before = {path: path.read_bytes() for path in (tmp_path / "drafts").glob("tiger-take2*")}
    ran.clear()
    lines: list[str] = []
    report = draft(tmp_path, loaded, changed, seeds=2, say=lines.append)
    assert statuses(report)["tiger-take2"] == "older"
    assert "[1/4] tiger-take2: drafted before, for another prompt: kept" in lines
    labels = [draft_sheet._label(result, result.clip.take.take == 2) for result in report.results]
    assert labels[:2] == ["1", "2  older  picked"]
    assert len(ran) == 2, "take 1 alone"
    assert {path: path.read_bytes() for path in before} == before
    page = (tmp_path / "drafts.html").read_text()
    assert page.count("of an earlier version of the shot: a tiger walking left") == 1
    # It may still be what the script says again; until then, what is rendered is what the script says.
    render(script(changed), tmp_path, model=loaded, only=["tiger"], say=lines.append)
    assert "tiger-take2: its draft is of another prompt, and is of no use" in lines
    assert probe_text(tmp_path / "tiger-take2.mp4") == "a tiger walking right"
    (tmp_path / "tiger-take2.json").unlink()
    ran.clear()
    render(script(text), tmp_path, model=loaded, only=["tiger"])
    assert len(ran) == 1 and probe_text(tmp_path / "tiger-take2.mp4") == "a tiger walking left"


@pytest.mark.parametrize("harm", ["gone", "broken"])
def test_what_was_left_alone_and_lost_its_picture_is_not_shown(
    tmp_path: Path, loaded: Any, ran: list[int], harm: str
) -> None:
    draft(tmp_path, loaded, seeds=2)
    preview = tmp_path / "drafts" / "tiger.webp"
    if harm == "gone":
        preview.unlink()
    else:
        preview.write_bytes(preview.read_bytes()[:100])
    report = draft(tmp_path, loaded, seeds=2, only=["fish"])
    assert statuses(report) == {
        **{"tiger": "pending", "tiger-take2": "kept"},
        **{"fish": "kept", "fish-take2": "kept"},
    }
    kept = TEXT.replace("  - id: tiger\n", "  - id: tiger\n    keep: true\n")
    ran.clear()
    assert statuses(draft(tmp_path, loaded, kept, seeds=2))["tiger"] == "drafted" and not ran


def test_takes_that_an_earlier_run_drafted_can_be_named(
    tmp_path: Path, loaded: Any, tiny_student: Path
) -> None:
    draft(tmp_path, loaded, seeds=3, only=["tiger"])
    by_name = {"model": str(tiny_student), "device": "cpu", "dtype": "float32"}
    report = draft(tmp_path, loaded, seeds=1, only=["tiger:3"], **by_name)
    assert statuses(report) == {"tiger": "kept", "tiger-take2": "kept", "tiger-take3": "kept"}
    report = draft(tmp_path, loaded, seeds=1, again=["tiger"], only=["tiger:4"], **by_name)
    assert statuses(report)["tiger-take4"] == "drafted"


def test_a_sheet_marks_what_is_picked_beside_one_that_failed(tmp_path: Path, loaded: Any) -> None:
    picked = TEXT.replace("  - id: tiger\n", "  - id: tiger\n    pick: 3\n")
    report = draft(tmp_path, loaded, picked, only=["tiger"])
    report.results[0].status, report.results[0].error = "failed", "no memory"
    draft_sheet.write_sheets(tmp_path, script(), loaded, report)
    pixels = np.asarray(Image.open(tmp_path / "drafts.png"))
    assert (pixels == draft_sheet._PICKED).all(axis=-1).any()


def test_drafts_are_kept_and_more_seeds_are_added(tmp_path: Path, loaded: Any, ran: list[int]) -> None:
    draft(tmp_path, loaded, seeds=2)
    ran.clear()
    assert set(statuses(draft(tmp_path, loaded, seeds=2)).values()) == {"kept"} and not ran
    # A further stage of what is there costs that stage alone, and fewer stages than there are cost nothing.
    draft(tmp_path, loaded, seeds=2, stages=3)
    assert len(ran) == 4
    assert set(statuses(draft(tmp_path, loaded, seeds=1, stages=1)).values()) == {"kept"}
    ran.clear()
    report = draft(tmp_path, loaded, seeds=2, again=["tiger"])
    assert statuses(report) == {
        **{"tiger": "kept", "tiger-take2": "kept", "tiger-take3": "drafted", "tiger-take4": "drafted"},
        **{"fish": "kept", "fish-take2": "kept"},
    }
    assert len(ran) == 4
    # What such a run left when it was killed is made, rather than still more drawn.
    (tmp_path / "drafts" / "tiger-take4.json").unlink()
    assert list(statuses(draft(tmp_path, loaded, seeds=2, again=["tiger"])).values()).count("drafted") == 1
    assert len(ran) == 4, "its latents were there"
    assert len(draft(tmp_path, loaded, seeds=2, again=["tiger"]).results) == 8


def test_more_seeds_that_were_interrupted_are_not_drawn_twice(tmp_path: Path, loaded: Any) -> None:
    draft(tmp_path, loaded, seeds=1)
    asked: dict[str, Any] = {"seeds": 2, "again": ["tiger", "fish"]}
    # Cut when the first shot has its new drafts.
    asks = iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        draft(tmp_path, loaded, stop=lambda: next(asks), **asked)
    there = {path.stem for path in (tmp_path / "drafts").glob("*.json")}
    assert there == {"tiger", "fish", "tiger-take2", "tiger-take3"}
    # Cut when all drafts are there, and the page is not.
    page = tmp_path / "drafts.html"
    page.unlink()
    page.mkdir()
    with pytest.raises(OSError):
        draft(tmp_path, loaded, **asked)
    page.rmdir()
    assert json.loads((tmp_path / "drafts.json").read_text())["unfinished"] == {
        "shots": ["tiger", "fish"],
        "seeds": 2,
    }
    assert len(draft(tmp_path, loaded, **asked).results) == 6 and page.is_file()
    assert len(draft(tmp_path, loaded, **asked).results) == 10, "asked for once more"
    # Another request than the interrupted one is no continuation of it.
    asks = iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        draft(tmp_path, loaded, stop=lambda: next(asks), **asked)
    there = {path.stem for path in (tmp_path / "drafts").glob("tiger*.json")}
    assert len(there) == 7
    assert statuses(draft(tmp_path, loaded, seeds=1, again=["tiger"]))["tiger-take8"] == "drafted"


def test_new_seeds_are_asked_for_by_shot_and_what_leaves_none_is_refused(
    tmp_path: Path, loaded: Any, ran: list[int]
) -> None:
    draft(tmp_path, loaded, seeds=1, only=["tiger"])
    ran.clear()
    for asked, told in (
        ({"again": ["tiger:1"]}, "--again tiger:1: names a take, expected a shot. Give --again tiger."),
        ({"again": ["tigr"]}, "--again tigr: there is no shot 'tigr'. Did you mean `tiger`?"),
        ({"again": ["tiger"], "only": ["fish"]}, "--again, --only and --skip: no new take is left."),
        (
            {"only": ["tiger:4"]},
            "--only tiger:4: tiger has no take '4', only 1, 2. Take one of them. --seeds drafts",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            draft(tmp_path, loaded, seeds=2, **asked)
    assert not ran and json.loads((tmp_path / "drafts.json").read_text())["takes"]["tiger"] == 1
    # A shot that has no draft yet is one all the same.
    report = draft(tmp_path, loaded, seeds=1, again=["tiger"], skip=["fish"])
    assert statuses(report) == {"tiger": "kept", "tiger-take2": "drafted"}


def test_another_clip_is_drafted_anew_and_said(tmp_path: Path, loaded: Any, ran: list[int]) -> None:
    model = loaded
    draft(tmp_path, loaded, seeds=1)
    lines: list[str] = []
    changed = TEXT.replace("walking left", "walking right")
    report = draft(tmp_path, loaded, changed, seeds=1, say=lines.append)
    assert statuses(report) == {"tiger": "drafted", "fish": "kept"}
    assert "tiger: drafted anew, for another prompt" in lines
    lines.clear()
    other = type(model)(**vars(model) | {"fingerprint": "another"})
    draft(tmp_path, other, changed, seeds=1, say=lines.append)
    assert "fish: drafted anew, for another student" in lines
    lines.clear()
    draft(tmp_path, type(model)(**vars(other) | {"dtype": "float16"}), changed, seeds=1, say=lines.append)
    assert "fish: drafted anew, for another precision" in lines
    lines.clear()
    other = type(model)(**vars(other) | {"options": ("float8",)})
    draft(tmp_path, other, changed, seeds=1, say=lines.append)
    assert "fish: drafted anew, for another precision, batch or setting of the model" in lines
    # What clips are shown through has no part in the stages.
    ran.clear()
    lines.clear()
    other = type(model)(**vars(other) | {"decoding": ("decoder another",)})
    report = draft(tmp_path, other, changed, seeds=1, say=lines.append)
    assert set(statuses(report).values()) == {"drafted"} and not ran
    assert "fish: shown anew from its latents" in lines


def test_only_and_skip_leave_the_others_alone(tmp_path: Path, loaded: Any) -> None:
    assert statuses(draft(tmp_path, loaded, seeds=2, only=["fish"])) == {
        "fish": "drafted",
        "fish-take2": "drafted",
    }
    assert statuses(draft(tmp_path, loaded, seeds=1, skip=["fish"])) == {
        **{"tiger": "drafted", "fish": "kept", "fish-take2": "kept"}
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "--seeds 0: expected a number of takes, from 1 to 1000"),
        ({"stages": 4}, "--stages 4: .* has 3 stages. Take from 1 to 3"),
        ({"batch": 0}, "--batch 0: expected a number of takes"),
        ({"again": ["tigr"]}, "--again tigr: there is no shot 'tigr'. Did you mean `tiger`"),
        ({"only": ["tiger:9"]}, "--only tiger:9: tiger has no take '9'"),
    ],
)
def test_wrong_numbers_and_names_are_refused(
    tmp_path: Path, loaded: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draft(tmp_path / "out", loaded, **options)
    assert not (tmp_path / "out").exists()


def test_a_batch_of_none_is_not_taken_for_the_default(tmp_path: Path, loaded: Any) -> None:
    with pytest.raises(ValueError, match="--batch 0: expected a number of takes"):
        render(script(), tmp_path / "out", model=loaded, batch=0)
    assert not (tmp_path / "out").exists()


def test_how_many_stages_is_the_student_s_or_said(tmp_path: Path, loaded: Any) -> None:
    model = loaded
    lines: list[str] = []
    report = draft(tmp_path / "a", loaded, seeds=1, stages=None, only=["fish"], say=lines.append)
    assert report.stages == 2 and any("was not measured; taking 2 of 3" in line for line in lines)
    known = type(model)(**vars(model) | {"draft_stages": 1})
    lines.clear()
    report = draft(tmp_path / "b", known, seeds=1, stages=None, only=["fish"], say=lines.append)
    assert report.stages == report.results[-1].stage == 1 and not any("measured" in line for line in lines)


def test_more_seeds_of_a_shot_that_was_away_are_drawn(tmp_path: Path, loaded: Any) -> None:
    draft(tmp_path, loaded, seeds=2)
    draft(tmp_path, loaded, TEXT.split("  - id: fish")[0], seeds=2)
    assert statuses(draft(tmp_path, loaded, seeds=1, again=["fish"]))["fish-take3"] == "drafted"


def test_more_drafts_are_computed_as_those_that_are_there(tmp_path: Path, loaded: Any) -> None:
    draft(tmp_path, loaded, seeds=2, batch=2)
    assert statuses(draft(tmp_path, loaded, seeds=1, again=["fish"])) == {
        **{"tiger": "kept", "tiger-take2": "kept", "fish": "kept", "fish-take2": "kept"},
        "fish-take3": "drafted",
    }
    assert json.loads((tmp_path / "drafts.json").read_text())["batch"] == 2


@pytest.mark.parametrize("name", ["fish.json", "drafts.json", "fish-take2.webp"])
def test_what_is_read_is_not_written_over(tmp_path: Path, loaded: Any, name: str) -> None:
    own = replace(script(), path=tmp_path / name)
    own.path.write_text(TEXT)
    for make in (drafts.draft, render):
        with pytest.raises(
            ValueError, match=f"{name}: is the script, and the name of a file that is written"
        ):
            make(own, tmp_path, model=loaded)
    assert [path.name for path in tmp_path.iterdir()] == [name] and own.path.read_text() == TEXT


def test_picks_that_are_just_being_edited_do_not_end_a_run(tmp_path: Path, loaded: Any) -> None:
    def stop() -> bool:
        (tmp_path / "picks.json").write_text("{")
        return False

    assert set(statuses(draft(tmp_path, loaded, seeds=1, stop=stop)).values()) == {"drafted"}
    with pytest.raises(ValueError, match=r"picks\.json: cannot be read"):
        draft(tmp_path, loaded, seeds=1)
