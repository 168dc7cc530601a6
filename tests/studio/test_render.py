"""Rendering: files, seeds, skipping, failing and resuming, with a tiny real model."""

import json
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from swd_video.data.video import probe_video, read_video, read_video_metadata
from swd_video.files import FolderInUseError, alone_in
from swd_video.models.loading import resolve_model_path
from swd_video.studio import progress
from swd_video.studio.clips import plan_clips
from swd_video.studio.model import ScriptModel
from swd_video.studio.progress import Event
from swd_video.studio.render import render as render_script
from swd_video.studio.report import RenderReport
from swd_video.studio.script import derive_seed
from swd_video.studio.yaml_script import parse_script
from swd_video.yaml_source import SourceError

from ..forked import start_forked
from .conftest import SCRIPT

NAMES = ["tiger", "fish", "fish-take2"]
FILES = {f"{name}{suffix}" for name in NAMES for suffix in (".mp4", ".webp", ".json")}
FILES |= {"contact_sheet.png", "player.html", "render.json"}


def render(out: Path, loaded: Any, text: str = SCRIPT) -> RenderReport:
    return render_script(parse_script(text, "film.yaml"), out, model=loaded)


def contents(out: Path) -> dict[str, bytes]:
    """Every file but `render.json`, which holds times."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "render.json"}


def statuses(report: RenderReport) -> list[str]:
    return [result.status for result in report.results]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, loaded: Any) -> tuple[Path, RenderReport]:
    """One rendered script that tests look at and do not touch."""
    out = tmp_path_factory.mktemp("finished") / "deep" / "out"
    return out, render(out, loaded)


def test_every_file_is_there_and_no_other(finished: tuple[Path, RenderReport]) -> None:
    out, report = finished
    assert {path.name for path in out.iterdir()} == FILES
    assert statuses(report) == ["rendered"] * 3


def test_clips_are_what_the_script_asks_for(finished: tuple[Path, RenderReport], tiny_student: Path) -> None:
    out, _ = finished
    for name, frames in zip(NAMES, (9, 5, 5), strict=True):
        info = probe_video(out / f"{name}.mp4")
        assert (info.codec, info.frames, info.width, info.height, info.fps) == ("h264", frames, 64, 48, 16)
        assert probe_video(out / f"{name}.webp").frames == frames
    metadata = read_video_metadata(out / "fish-take2.mp4")
    assert metadata["prompt"] == "a fish staying on pink"
    assert metadata["seed"] == str(derive_seed(5, "fish", 2))
    assert metadata["model"] == str(tiny_student)


def test_a_clip_shows_what_the_pipeline_makes_of_its_seed(
    finished: tuple[Path, RenderReport], loaded: Any
) -> None:
    out, _ = finished
    generator = torch.Generator().manual_seed(derive_seed(5, "tiger", 1))
    expected = loaded.pipe("a tiger walking left", generator=generator).frames[0]
    frames, _ = read_video(out / "tiger.mp4")
    # Noise is hard to compress: compare means over 8 x 8 blocks.
    blocks = (frames / 255 - expected).reshape(9, 6, 8, 8, 8, 3).mean(axis=(2, 4))
    assert np.abs(blocks).mean() < 0.02
    assert np.abs(expected - expected.mean()).mean() > 0.04, (
        "the comparison above would pass for anything grey"
    )


def test_the_report_has_exactly_the_promised_keys(finished: tuple[Path, RenderReport]) -> None:
    out, report = finished
    described = report.as_dict(out)
    assert set(described) == {"shots", "seconds", "warnings"}
    assert described["warnings"] == []
    tiger, fish, fish2 = described["shots"]
    assert set(tiger) == {
        "id", "take", "prompt", "seed", "file", "frames", "width", "height", "fps", "seconds", "status", "stages",
    }  # fmt: skip
    assert Path(tiger["file"]) == out.resolve() / "tiger.mp4"
    assert (tiger["frames"], tiger["width"], tiger["height"], tiger["fps"]) == (9, 64, 48, 16)
    assert (tiger["seconds"], fish["seconds"]) == (9 / 16, 5 / 16)
    assert (fish["id"], fish["take"], fish2["id"], fish2["take"]) == ("fish", 1, "fish", 2)
    assert [list(stage) for stage in tiger["stages"]] == [
        ["frames", "height", "width", "sigma", "seconds"]
    ] * 3
    assert [tuple(stage.values())[:4] for stage in tiger["stages"]] == [
        (5, 32, 32, 1.0),
        (9, 32, 32, 0.8),
        (9, 48, 64, 0.5),
    ]
    assert all(stage["seconds"] > 0 for stage in tiger["stages"])


def test_render_json_and_sidecars_say_the_same(finished: tuple[Path, RenderReport]) -> None:
    out, report = finished
    written = json.loads((out / "render.json").read_text())
    assert (written["title"], written["seed"]) == ("Two shots", 5)
    for entry, shown in zip(written["shots"], report.as_dict()["shots"], strict=True):
        sidecar = json.loads((out / f"{Path(entry['file']).stem}.json").read_text())
        assert shown.items() <= entry.items()
        for key in ("id", "take", "prompt", "seed", "frames", "fps", "seconds", "content_hash"):
            assert sidecar[key] == entry[key]
        assert "seconds" not in sidecar["stages"][0], "times would make resumed runs differ"


def test_finished_clips_are_skipped_with_their_times(tmp_path: Path, loaded: Any) -> None:
    first = render(tmp_path, loaded)
    before, modified = contents(tmp_path), (tmp_path / "tiger.mp4").stat().st_mtime_ns
    second = render(tmp_path, loaded)

    assert statuses(second) == ["skipped"] * 3
    assert contents(tmp_path) == before
    assert (tmp_path / "tiger.mp4").stat().st_mtime_ns == modified
    assert second.results[0].stage_seconds == first.results[0].stage_seconds

    (tmp_path / "render.json").unlink()
    third = render(tmp_path, loaded)
    assert statuses(third) == ["skipped"] * 3
    assert [stage["seconds"] for stage in third.as_dict()["shots"][0]["stages"]] == [None] * 3


def test_editing_one_shot_leaves_the_others_bit_identical(
    tmp_path: Path, finished: tuple[Path, RenderReport], loaded: Any
) -> None:
    # Another prompt, one shot more in front, and the rest in another order.
    text = """\
seed: 5
shots:
  - {id: new, prompt: something else}
  - {id: fish, prompt: a fish staying on pink, seconds: 0.3125, takes: 2}
  - {id: tiger, prompt: a tiger running right}
"""
    report = render(tmp_path, loaded, text)
    assert statuses(report) == ["rendered"] * 4
    before, after = contents(finished[0]), contents(tmp_path)
    same = {name for name in before if name in after and before[name] == after[name]}
    assert same == {name for name in FILES if name.startswith("fish")}

    again = render(tmp_path, loaded, text.replace("something else", "something new"))
    assert statuses(again) == ["rendered", "skipped", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("damage", "how"),
    [
        ("tiger.mp4", "missing"),
        ("tiger.mp4", "changed"),
        ("tiger.webp", "missing"),
        ("tiger.json", "changed"),
    ],
)
def test_a_damaged_clip_is_made_again(
    damage: str, how: str, tmp_path: Path, finished: tuple[Path, RenderReport], loaded: Any
) -> None:
    for name, data in contents(finished[0]).items():
        (tmp_path / name).write_bytes(data)
    if how == "missing":
        (tmp_path / damage).unlink()
    else:
        (tmp_path / damage).write_bytes(b"{}" + (tmp_path / damage).read_bytes()[2:])

    assert statuses(render(tmp_path, loaded)) == ["rendered", "skipped", "skipped"]
    assert contents(tmp_path) == contents(finished[0])


def test_another_seed_or_model_is_another_clip(
    tmp_path: Path, tiny_student: Path, finished: tuple[Path, RenderReport], loaded: Any
) -> None:
    hashes = {result.clip.content_hash for result in finished[1].results}
    assert len(hashes) == 3
    script = parse_script(SCRIPT, "film.yaml")
    model = loaded
    assert {clip.content_hash for clip in plan_clips(script, model)} == hashes
    reseeded = parse_script(SCRIPT.replace("seed: 5", "seed: 6"), "film.yaml")
    assert hashes.isdisjoint(clip.content_hash for clip in plan_clips(reseeded, model))
    retrained = type(model)(**{**vars(model), "fingerprint": "another"})
    assert hashes.isdisjoint(clip.content_hash for clip in plan_clips(script, retrained))


def test_a_failing_shot_does_not_stop_the_others(tmp_path: Path, loaded: Any) -> None:
    (tmp_path / "tiger.mp4" / "in the way").mkdir(parents=True)
    lines: list[str] = []
    report = render_script(parse_script(SCRIPT, "film.yaml"), tmp_path, model=loaded, say=lines.append)

    assert statuses(report) == ["failed", "rendered", "rendered"]
    tiger = json.loads((tmp_path / "render.json").read_text())["shots"][0]
    assert (tiger["status"], tiger["file"]) == ("failed", None)
    assert "tiger.mp4" in tiger["error"]
    assert lines[0].startswith("[1/3] tiger: failed: ")
    assert (tmp_path / "contact_sheet.png").is_file()

    (tmp_path / "tiger.mp4" / "in the way").rmdir()
    (tmp_path / "tiger.mp4").rmdir()
    assert statuses(render(tmp_path, loaded)) == ["rendered", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("seconds", "frames"), [("0.5625", 9), ("0.5", 9), ("0.56", 9), ("0.625", 9), ("0.75", 13), ("0.0625", 1)]
)
def test_lengths_within_a_frame_of_a_legal_one_are_taken(seconds: str, frames: int, loaded: Any) -> None:
    script = parse_script(f"shots: [{{id: a, prompt: b, seconds: {seconds}}}]", "film.yaml")
    (clip,) = plan_clips(script, loaded)
    assert clip.size.as_tuple() == (frames, 48, 64)


def test_an_inexact_length_is_said(tmp_path: Path, loaded: Any) -> None:
    lines: list[str] = []
    shots = "{id: a, prompt: b}, {id: b, prompt: b}, {id: c, prompt: b, seconds: 0.5625}"
    script = parse_script(f"defaults: {{seconds: 0.5, takes: 2}}\nshots: [{shots}]", "film.yaml")
    render_script(script, tmp_path, model=loaded, only=["c:1"], say=lines.append)
    assert lines[0] == "a and 1 more shot: 9 frames, 0.5625 s (asked for 0.5 s)"
    assert lines[1].startswith("[1/1] c: 9 frames, 0.5625 s, rendered in ")


def test_other_lengths_are_refused_with_the_nearest_ones(tmp_path: Path, loaded: Any) -> None:
    text = "defaults:\n  seconds: 0.6875\nshots: [{id: a, prompt: b}]"
    with pytest.raises(SourceError) as caught:
        render(tmp_path / "out", loaded, text)
    assert str(caught.value).startswith(
        "film.yaml:2: shots[0].seconds: 0.6875 seconds are 11 frames at 16 frames"
    )
    assert "Nearest lengths: 0.5625 (9 frames) or 0.8125 (13 frames)." in str(caught.value)
    with pytest.raises(SourceError, match=r"seconds: 16\.5 .* Nearest lengths: 15\.81 \(253 frames\)\. Its"):
        render(
            tmp_path / "out", loaded, text.replace("0.6875", "16.5")
        )  # 67 latent frames; positions count 64
    assert not (tmp_path / "out").exists()


def test_prompts_that_would_be_cut_are_refused(loaded: Any) -> None:
    text = f"shots:\n  - id: a\n    prompt: {'word ' * 20}"
    with pytest.raises(SourceError, match=r"film.yaml:3: shots\[0\].prompt: has 100 tokens, and .* reads 48"):
        plan_clips(parse_script(text, "film.yaml"), loaded)


@pytest.mark.parametrize("after", ["tiger.json", "tiger.latents.safetensors"])
def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_files(
    tmp_path: Path, tiny_student: Path, finished: tuple[Path, RenderReport], loaded: Any, after: str
) -> None:
    out, script = tmp_path / "out", tmp_path / "film.yaml"
    script.write_text(SCRIPT + f"model: {tiny_student}\n")
    program = "import sys; from swd_video.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = start_forked(program, "render", script, "--out", out)
    while process.poll() is None and not (out / after).exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stderr
    assert not (out / "contact_sheet.png").exists()

    report = render(out, loaded)
    if after == "tiger.json":
        assert report.results[0].status == "skipped"
    assert "rendered" in statuses(report)
    assert {path.name for path in out.iterdir()} == FILES
    assert contents(out) == contents(finished[0])


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_no_stage_is_computed_twice(
    tmp_path: Path, loaded: Any, finished: tuple[Path, RenderReport], stages: int
) -> None:
    class KilledError(BaseException):
        pass

    ran: list[int] = []

    def count(*_: Any) -> None:
        ran.append(1)
        if len(ran) == stages + 1:
            raise KilledError

    pipe = loaded.pipe
    hook = pipe.model.transformer.register_forward_pre_hook(count)
    try:
        with pytest.raises(KilledError):
            render(tmp_path, loaded)
        assert statuses(render(tmp_path, loaded))[-1] == "rendered"
    finally:
        hook.remove()
    # The stage in hand was begun twice.
    assert len(ran) == 3 * 3 + 1
    assert contents(tmp_path) == contents(finished[0])


def test_the_reason_of_a_clip_that_failed_is_a_sentence_of_its_own(tmp_path: Path, loaded: Any) -> None:
    ran: list[int] = []

    def fail(*_: Any) -> None:
        ran.append(1)
        if len(ran) == 2:
            raise RuntimeError("no room")

    hook = loaded.pipe.model.transformer.register_forward_pre_hook(fail)
    try:
        report = render_script(parse_script(SCRIPT, "film.yaml"), tmp_path, model=loaded, only=["tiger"])
    finally:
        hook.remove()
    assert report.results[0].error == (
        "RuntimeError: no room. Its latents are kept: the same command goes on with them."
    )


def test_latents_wait_for_a_decode_that_failed_and_no_stage_is_computed_twice(
    tmp_path: Path, loaded: Any, finished: tuple[Path, RenderReport]
) -> None:
    # A folder in the way of the clip: what was decoded cannot be written.
    (tmp_path / "tiger.mp4").mkdir()
    first = render(tmp_path, loaded)
    assert statuses(first) == ["failed", "rendered", "rendered"]
    assert "Its latents are kept: the same command goes on with them." in first.results[0].error
    waiting = tmp_path / "tiger.latents.safetensors"
    assert waiting.is_file()
    (tmp_path / "tiger.mp4").rmdir()
    second = render(tmp_path, loaded)
    assert statuses(second) == ["rendered", "skipped", "skipped"]
    # Times are measured anew whenever a stage runs, and never come out the same.
    assert second.results[0].stage_seconds == first.results[0].stage_seconds != []
    assert not waiting.exists()
    assert contents(tmp_path) == contents(finished[0])


def test_stages_are_shown_while_a_clip_is_made(
    tmp_path: Path, loaded: Any, finished: tuple[Path, RenderReport]
) -> None:
    told: list[tuple[int | None, int | None]] = []

    def look(event: Event) -> None:
        if event.event == "stage":
            frames = probe_video(tmp_path / event.preview).frames if event.preview else None
            told.append((event.stage, frames))

    render_script(parse_script(SCRIPT, "film.yaml"), tmp_path, model=loaded, previews=True, watch=look)
    assert told == [(1, 5), (2, 9), (3, None), *[(1, 5), (2, 5), (3, None)] * 2]
    assert contents(tmp_path) == contents(finished[0])


def test_latents_of_another_take_are_not_decoded(
    tmp_path: Path, loaded: Any, finished: tuple[Path, RenderReport]
) -> None:
    (tmp_path / "tiger.mp4").mkdir()
    render(tmp_path, loaded, SCRIPT.replace("seed: 5", "seed: 6"))
    (tmp_path / "tiger.mp4").rmdir()
    assert (tmp_path / "tiger.latents.safetensors").is_file()
    render(tmp_path, loaded)
    assert contents(tmp_path) == contents(finished[0])


def test_unknown_words_are_told_and_known_forms_are_read(tmp_path: Path, loaded: Any) -> None:
    model = loaded
    tokenizer = AutoTokenizer.from_pretrained(Path(resolve_model_path("pocket-wan")) / "tokenizer")
    model = ScriptModel(**{**vars(model), "tokenizer": tokenizer})
    text = """\
shots:
  - {id: fox, prompt: a fox running through a forest}
  - {id: quoted, prompt: "\u201ca tiger\u2019s\u201d moving left", takes: 2}
  - {id: known, prompt: a tiger moving left}
"""
    lines: list[str] = []
    report = render_script(parse_script(text, "film.yaml"), tmp_path, model=model, say=lines.append)
    warnings = [
        f"film.yaml:2: shots[0].prompt: unknown to {model.name}, which shows nothing of them: 'fox', 'through'.",
        "film.yaml:3: shots[1].prompt: read as 'a tiger moving left'.",
    ]
    assert lines[:2] == [f"warning: {line}" for line in warnings]
    written = json.loads((tmp_path / "render.json").read_text())
    assert written["warnings"] == report.as_dict()["warnings"] == warnings
    fox, quoted, again, known = written["shots"]
    assert fox["unknown_words"] == {"fox": [], "through": []} and "read_as" not in fox
    assert quoted["read_as"] == again["read_as"] == "a tiger moving left" and "unknown_words" not in quoted
    assert not {"read_as", "unknown_words"} & set(known)
    assert json.loads((tmp_path / "quoted.json").read_text())["read_as"] == "a tiger moving left"

    # What is known throughout is what it was before words were looked at.
    plain = parse_script("shots: [{id: known, prompt: a tiger moving left}]", "film.yaml")
    assert plan_clips(plain, model) == plan_clips(plain, loaded)
    with pytest.raises(
        SourceError, match=r"film.yaml:1: shots\[0\].prompt: .* knows not one word of it: 'tigers' \(near"
    ):
        plan_clips(parse_script("- tigers!", "film.yaml"), model)
    with pytest.raises(SourceError, match=r"knows not one word of it\. Write"):
        plan_clips(parse_script("- ...", "film.yaml"), model)


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path, loaded: Any) -> None:
    with alone_in(tmp_path), pytest.raises(FolderInUseError, match="another run is writing there"):
        render(tmp_path, loaded)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_run_at_once_and_names_the_file(
    tmp_path: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REPORT_SECONDS", 1e6)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    lines: list[str] = []

    def fill_the_disk(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.raises(OSError, match=r"fish-take2\..*: cannot be written: .*What is finished is kept"):
            render_script(parse_script(SCRIPT, "film.yaml"), tmp_path, model=loaded, say=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(lines) == 2
    finished = {name for name in FILES if not name.startswith(("fish-take2", "contact", "player"))}
    assert {path.name for path in tmp_path.iterdir()} == finished
    assert statuses(render(tmp_path, loaded)) == ["skipped", "skipped", "rendered"]


def test_the_report_is_written_rarely_and_whenever_the_run_ends(
    tmp_path: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REPORT_SECONDS", 1e6)
    path, seen = tmp_path / "render.json", []

    def finished() -> int:
        return sum(shot["status"] != "pending" for shot in json.loads(path.read_text())["shots"])

    def look(line: str) -> None:
        seen.append(finished() if path.exists() else 0)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_script(parse_script(SCRIPT, "film.yaml"), tmp_path, model=loaded, say=look)
    assert seen == [0, 1, 1] and finished() == 3


def test_a_kept_clip_that_somebody_changed_is_left_alone(tmp_path: Path, loaded: Any) -> None:
    render(tmp_path, loaded)
    text = SCRIPT.replace("id: tiger", "id: tiger\n    keep: true")
    assert statuses(render(tmp_path, loaded, text)) == ["skipped"] * 3
    (tmp_path / "tiger.mp4").write_bytes(b"cut by hand")
    report = render(tmp_path, loaded, text)
    assert statuses(report) == ["failed", "skipped", "skipped"]
    assert "the script keeps it, and tiger.mp4 or its preview is not as it was" in str(
        report.results[0].error
    )
    assert (tmp_path / "tiger.mp4").read_bytes() == b"cut by hand"
    (tmp_path / "tiger.mp4").unlink()
    assert statuses(render(tmp_path, loaded, text)) == ["rendered", "skipped", "skipped"]


def test_clips_of_another_script_in_the_folder_are_moved_and_not_replaced(
    tmp_path: Path, loaded: Any
) -> None:
    """Shots of a list have the same ids in every list."""

    def rendered(name: str, *prompts: str) -> RenderReport:
        text = "".join(f"- {prompt}\n" for prompt in prompts)
        return render_script(parse_script(text, tmp_path / name), tmp_path / "out", model=loaded)

    rendered("one.yaml", "a tiger walking left", "a fish staying on pink")
    before = contents(tmp_path / "out")
    report = rendered("two.yaml", "a tiger walking left", "a tiger staying on pink")
    assert statuses(report) == ["skipped", "rendered"]
    moved = tmp_path / "out" / "unused"
    assert contents(moved) == {name: before[name] for name in ("shot-2.mp4", "shot-2.webp", "shot-2.json")}
    assert report.warnings == [
        f"../one.yaml was rendered here, too: clips of these names are moved to {moved}: shot-2. "
        "Give each script a folder of its own."
    ]
    assert statuses(rendered("two.yaml", "a tiger walking left", "a tiger walking left")) == [
        "skipped",
        "rendered",
    ]
    assert len(contents(moved)) == 3, "a prompt that is reworded is another clip, as it always was"
