"""Shots that continue others: order, hashes, pictures and colours at the join."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from einops import rearrange

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.video import read_video, write_video
from swd_video.models.decoding import decode_whole
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student
from swd_video.studio.clips import PlannedClip, plan_clips
from swd_video.studio.continuation import Join, in_chain_order, last_frame
from swd_video.studio.model import load_model_for_rendering
from swd_video.studio.progress import Event
from swd_video.studio.render import render as render_script
from swd_video.studio.report import RenderReport
from swd_video.studio.yaml_script import parse_script
from swd_video.yaml_source import SourceError

from ..models.conftest import FAMILIES

CHAIN = """\
shots:
  - {id: night, prompt: c, continues: harbour, takes: 2}
  - {id: sea, prompt: a}
  - {id: harbour, prompt: b, continues: port}
  - {id: port, prompt: d, takes: 3, pick: [3, 2]}
"""


@pytest.fixture(scope="module", params=["ltx", "wan-ti2v"])
def of_pictures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_wan_folder: Path
) -> Any:
    """A tiny student of a model that takes pictures, loaded for rendering."""
    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe = FAMILIES[request.param].build(WanPipeline.from_pretrained(tiny_wan_folder))
    pipe.save_pretrained(folder / "teacher")
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)), Stage(0.6, LatentSize(2, 2, 4))))
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(schedule)
    Student(str(folder / "teacher"), scheduler).save(folder / "student", pipe.transformer)
    return load_model_for_rendering(str(folder / "student"))


@pytest.fixture(scope="module")
def of_text(loaded: Any) -> Any:
    """A model that would take pictures, for what needs no clips."""
    return replace(loaded, takes_pictures=True)


def plan(model: Any, text: str = CHAIN) -> list[PlannedClip]:
    return plan_clips(parse_script(text, "film.yaml"), model)


def render(out: Path, loaded: Any, text: str, **chosen: Any) -> RenderReport:
    return render_script(parse_script(text, "film.yaml"), out, model=loaded, **chosen)


def statuses(report: RenderReport) -> dict[str, str]:
    return {result.clip.name: result.status for result in report.results}


def blocks(frames: np.ndarray) -> np.ndarray:
    """Means over 8 x 8 pixels: noise is hard to compress."""
    return rearrange(frames.astype(float), "f (h a) (w b) c -> f h w (a b) c", a=8, b=8).mean(axis=-2)


def test_chains_are_made_from_their_beginning_and_all_else_stays_in_place(of_text: Any) -> None:
    clips = plan(of_text)
    assert [(clip.name, clip.continues) for clip in in_chain_order(clips)] == [
        ("port-take3", None),
        ("harbour", "port-take3"),
        ("night", "harbour"),
        ("night-take2", "harbour"),
        ("sea", None),
        ("port-take2", None),
    ]
    some = [clip for clip in clips if clip.name != "harbour"]
    assert [clip.name for clip in in_chain_order(some)] == [clip.name for clip in some]


def test_what_cannot_be_continued_is_refused_at_its_line(loaded: Any, of_text: Any) -> None:
    with pytest.raises(
        SourceError,
        match=r"^film.yaml:2: shots\[0\]\.continues: .* makes clips from text alone\. Drop the key, or use",
    ):
        plan(loaded)
    with pytest.raises(
        SourceError,
        match=r"^film.yaml:3: shots\[1\]\.continues: a is 64x48 pixels .* this shot 48x48\. Give both",
    ):
        plan(of_text, "- {id: a, prompt: a}\n- id: b\n  continues: a\n  prompt: b\n  size: 48x48\n")


FILM = """\
shots:
  - {id: night, prompt: c, continues: harbour}
  - {id: harbour, prompt: b, continues: port}
  - {id: port, prompt: d, takes: 3, pick: 3}
"""


def test_a_chain_is_rendered_and_follows_its_beginning(of_pictures: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    report = render(tmp_path, of_pictures, FILM, say=lines.append)
    assert [line.split(" ")[1] for line in lines] == ["port-take3:", "harbour:", "night:"]
    assert lines[1].startswith("[2/3] harbour: continues port-take3, ")
    assert statuses(report) == {"night": "rendered", "harbour": "rendered", "port-take3": "rendered"}
    shots = json.loads((tmp_path / "render.json").read_text())["shots"]
    assert [(shot["id"], shot.get("continues")) for shot in shots] == [
        ("night", "harbour"), ("harbour", "port-take3"), ("port", None),
    ]  # fmt: skip
    sidecar = json.loads((tmp_path / "harbour.json").read_text())
    assert (sidecar["joins"]["clip"], sidecar["joins"]["drop_frames"]) == ("port-take3", 1)
    assert sidecar["content_hash"] == shots[1]["content_hash"]
    assert "joins" not in json.loads((tmp_path / "port-take3.json").read_text())

    # It is what the pipeline makes of that picture, less the drift.
    before = last_frame(tmp_path / "port-take3.mp4")
    picture = torch.from_numpy(before.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    seed = report.results[1].clip.take.seed
    clip = of_pictures.pipe("b", pictures=picture, generator=torch.Generator().manual_seed(seed)).frames[0]
    made = list(
        Join("port-take3", before, of_pictures.pipe.fps).correct(iter((clip * 255).round().astype(np.uint8)))
    )
    frames, _ = read_video(tmp_path / "harbour.mp4")
    assert len(frames) == len(clip) == sidecar["frames"]
    assert np.abs(blocks(frames) - blocks(np.stack(made))).mean() < 5

    again = render(tmp_path, of_pictures, FILM)
    assert set(statuses(again).values()) == {"skipped"}
    assert [result.stage_seconds for result in again.results] == [
        result.stage_seconds for result in report.results
    ]
    # One that is kept goes on with the same bytes.
    plans: list[str] = []
    kept = render(
        tmp_path,
        of_pictures,
        FILM.replace("prompt: d", "keep: true, prompt: other"),
        watch=lambda event: plans.append(event.text) if event.event == "plan" else None,
    )
    assert set(statuses(kept).values()) == {"skipped"} and plans == ["3 clips, 0 to render"]
    # It tells what it continued itself, if anything, whatever the script says now.
    edited = FILM.replace("continues: harbour", "continues: port, keep: true")
    edited = edited.replace("takes: 3", "takes: 3, keep: true, continues: sea") + "  - {id: sea, prompt: a}\n"
    told = render(tmp_path, of_pictures, edited, skip=["sea"]).as_dict()["shots"]
    assert [(shot.get("kept"), shot.get("continues")) for shot in told] == [
        (True, "harbour"), (None, "port-take3"), (True, None), (None, None),
    ]  # fmt: skip
    # Another beginning: what follows from it is made anew, and nothing else.
    edited = FILM.replace("prompt: b", "prompt: other")
    assert statuses(render(tmp_path, of_pictures, edited)) == {
        "night": "rendered", "harbour": "rendered", "port-take3": "skipped",
    }  # fmt: skip


def test_a_clip_waits_for_the_one_that_it_continues(of_pictures: Any, tmp_path: Path) -> None:
    (tmp_path / "port-take3.mp4").mkdir()
    events: list[Event] = []
    report = render(tmp_path, of_pictures, FILM, watch=events.append)
    assert set(statuses(report).values()) == {"failed"}
    assert report.results[1].error.endswith(
        "it continues port-take3, which is not finished. Render that one, too."
    )
    (tmp_path / "port-take3.mp4").rmdir()
    assert statuses(render(tmp_path, of_pictures, FILM, only=["harbour"]))["harbour"] == "failed"
    some = render(tmp_path, of_pictures, FILM, skip=["night"])
    assert statuses(some) == {"night": "pending", "harbour": "rendered", "port-take3": "rendered"}
    events.clear()
    render(tmp_path, of_pictures, FILM, watch=events.append)
    assert [event.text for event in events if event.event == "plan"] == ["3 clips, 1 to render"]

    whole = tmp_path / "whole"
    render(whole, of_pictures, FILM)
    names = {path.name for path in whole.iterdir()}
    assert names == {path.name for path in tmp_path.iterdir() if path.is_file()}
    for name in names - {"render.json"}:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def frames_of(picture: np.ndarray, count: int = 4) -> list[np.ndarray]:
    return [np.roll(picture, number, axis=1) for number in range(count)]


def from_a_file(frame: np.ndarray, folder: Path) -> np.ndarray:
    write_video(folder / "still.mp4", iter([frame]), 12.0)
    return last_frame(folder / "still.mp4")


def test_drift_in_colour_is_measured_and_taken_out(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:48, 0:64]
    picture = np.stack([60 + columns, 200 - 2 * rows, 90 + (rows + columns) // 2], axis=-1).astype(np.uint8)
    # Paler, and redder: as a VAE may give it back.
    drifted = [
        (frame * [0.9, 0.85, 0.95] + [20, 5, -3]).round().astype(np.uint8) for frame in frames_of(picture)
    ]
    join = Join("harbour", from_a_file(picture, tmp_path), 12.0)
    corrected = list(join.correct(iter(drifted)))
    assert len(corrected) == 4 and join.measured["drop_frames"] == 1
    for got, wanted in zip(corrected, frames_of(picture), strict=True):
        assert np.abs(got.astype(int) - wanted).max() <= 2
    # What a video file does to colours is in all three.
    end, start, after = (join.measured[key] for key in ("end", "start", "corrected"))
    for told, frame in ((end, picture), (start, drifted[1]), (after, corrected[1])):
        levels = from_a_file(frame, tmp_path).reshape(-1, 3)
        assert told["mean"] == pytest.approx(levels.mean(0), abs=1e-3)
        assert told["deviation"] == pytest.approx(levels.std(0), abs=1e-3)
    assert after["mean"] == pytest.approx(end["mean"], abs=0.5)
    assert after["deviation"] == pytest.approx(end["deviation"], abs=0.5)


def test_another_picture_keeps_its_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(60, 120, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for other in (picture + 100, (picture.astype(int) * 2 - 90).astype(np.uint8)):
        join = Join("harbour", picture, 12.0)
        assert all(map(np.array_equal, join.correct(iter(frames_of(other))), frames_of(other)))
        assert join.measured["corrected"] is None

    # No contrast is stretched to another one, and a clip of one picture has none to drop.
    grey, lighter = np.full((48, 64, 3), 100, np.uint8), np.full((48, 64, 3), 104, np.uint8)
    join = Join("harbour", from_a_file(grey, tmp_path), 12.0)
    (only,) = join.correct(iter([lighter]))
    assert only.std() == 0 and abs(only.mean() - 100) <= 1
    assert join.measured["drop_frames"] == 0


def test_less_drift_adds_up_along_a_chain(tmp_path: Path) -> None:
    """Four clips, each the last picture of the one before through the pocket VAE, and through H.264."""
    model = load_model_for_rendering("pocket-wan-swd").pipe.model
    rows, columns = np.mgrid[0:96, 0:96]
    first = np.stack([120 + columns // 2, 190 - rows // 3, 90 + rows // 2], axis=-1).astype(np.uint8)
    first[(rows - 48) ** 2 + (columns - 40) ** 2 < 400] = (230, 140, 40)

    def means_off(*, corrected: bool) -> float:
        shown = first
        for _ in range(4):
            still = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None, :, None].expand(-1, -1, 5, -1, -1)
            with torch.no_grad():
                pixels = decode_whole(model, model.encode_video(still / 127.5 - 1))[0]
            frames = ((pixels.permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
            made = Join("before", shown, 12.0).correct(iter(frames)) if corrected else iter(frames)
            write_video(tmp_path / "clip.mp4", made, 12.0)
            shown = last_frame(tmp_path / "clip.mp4")
        return float(np.abs(shown.mean((0, 1)) - first.mean((0, 1))).max())

    # What is left comes in between a clip's second picture and its last.
    assert means_off(corrected=True) < 0.6 * means_off(corrected=False)
