"""The larger pocket world: its recipe at a tiny size, and parcels that go from machine to machine."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from swd_video.config import load_config_as
from swd_video.core.grid import LatentSize
from tools.pocket import corpus, parcel, world
from tools.pocket.curricula import parse_phase
from tools.pocket.recipes import Clock
from tools.pocket.side_by_side import run_side_by_side
from tools.pocket.world import JOBS, PARTS, Maker, World, main


def tiny(out: Path) -> list[str]:
    return ["--out", str(out), "--rehearse", "--device", "cpu"]


def test_the_first_jobs_are_made_packed_and_found_again_elsewhere(
    drawn_animations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SWD_POCKET_EMOJI", str(drawn_animations))
    monkeypatch.setattr(corpus, "EMOJI_FOLDER", drawn_animations)
    monkeypatch.setitem(PARTS, "vae", (("text", "choose"),))  # the VAE takes longer than a test may
    here, there, parcels = tmp_path / "here", tmp_path / "there", tmp_path / "parcels"
    assert main(["--part", "1", *tiny(here), "--deliver", str(parcels)]) == 0
    weights = load_file(here / "text" / "text_encoder" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert json.loads((here / "world.json").read_text())["seconds"].keys() == {"text", "choose"}
    assert main(["--part", "vae", *tiny(here)]) == 0
    assert "finished already" in capsys.readouterr().err
    # Another machine has the text encoder, and composes the clips anew.
    assert main(["--part", "vae", *tiny(there), "--from", str(parcels), "--minutes", "1e-9"]) == 1
    assert (there / "done" / "text").is_file() and not (there / "done" / "choose").exists()
    copied = load_file(there / "text" / "text_encoder" / "model.safetensors")
    assert all(torch.equal(copied[name], value) for name, value in weights.items())
    assert main(["--part", "teacher", *tiny(there)]) == 2
    assert "has no vae/final or teacher/final/vae" in capsys.readouterr().err


def test_parcels_are_split_checked_and_never_too_large(tmp_path: Path) -> None:
    source, parcels, target = (tmp_path / name for name in ("source", "parcels", "target"))
    (source / "weights").mkdir(parents=True)
    (source / "weights" / "a").write_bytes(bytes(range(256)) * 40)
    (source / "large").write_bytes(bytes(50_000))
    (source / "note").write_text("small")
    groups = [["weights"], ["large"], ["note"]]
    limits = {"piece_bytes": 4096, "most_bytes": 20_000}
    assert parcel.pack(source, groups, parcels, "one", {"card": "H200"}, **limits) == ["large"]
    pieces = sorted(parcels.glob("one.[0-9]*"))
    assert len(pieces) > 2 and max(piece.stat().st_size for piece in pieces) <= 4096
    (header,) = parcel.unpack(parcels, target)
    assert header["card"] == "H200"
    assert (target / "weights" / "a").read_bytes() == (source / "weights" / "a").read_bytes()
    assert (target / "note").read_text() == "small" and not (target / "large").exists()
    pieces[1].write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"one\.01: is missing or not what was packed"):
        parcel.unpack(parcels, target)
    with pytest.raises(ValueError, match="holds no parcel"):
        parcel.unpack(source, target)


def test_halved_weights_stay_what_they_are_but_for_their_precision(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3), "n": torch.arange(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    parcel.halve(tmp_path)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    found = load_file(tmp_path / "a.safetensors")
    assert found["w"].dtype == torch.float16 and torch.equal(found["n"], torch.arange(3))


def test_commands_end_at_the_deadline_and_failures_show_their_last_words(tmp_path: Path) -> None:
    done: list[str] = []

    def note(job: str, seconds: float) -> None:
        done.append(job)

    def run(jobs: dict[str, list[list[str]]], seconds: float) -> None:
        run_side_by_side(jobs, tmp_path, time.monotonic() + seconds, {}, note)

    run({"quick": [["this"], ["this"]]}, 60)
    assert done == ["quick"]
    started = time.monotonic()
    run({"slow": [["http.server", "0", "--bind", "127.0.0.1"]]}, 0.5)
    assert done == ["quick"] and time.monotonic() < started + 20
    with pytest.raises(RuntimeError, match=r"(?s)bad failed; .*No module named no_such_module"):
        run({"bad": [["no_such_module"]]}, 60)


def test_every_part_has_what_its_jobs_need_and_every_job_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_config_as(World, world.CONFIGS / "world.yaml")
    for name in (
        "vae/final/vae",
        "text",
        "teacher/final/vae",
        "teacher-more/final",
        "students/staged/student",
    ):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    maker = Maker(tmp_path, settings, "cuda", time.monotonic() + 60)
    assert {job for groups in PARTS.values() for group in groups for job in group} == set(JOBS)
    for job in JOBS:
        for words in maker.commands(job):
            assert words[0].startswith(("tools.pocket.", "swd_video.cli.main"))
            assert not any(word in ("None", "True", "False") for word in words)
    # A training ends with its part.
    (words,) = maker.commands("teacher")
    assert float(words[words.index("--minutes") + 1]) <= 1
    assert "staged-decoder" not in (tmp_path / "evaluate.yaml").read_text()
    grids = [parse_phase(options["grids"]).grids for options in settings.teachers.values()]
    assert all(list(phase)[-1] == LatentSize(9, 16, 16) for phase in grids)


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("--part", "9"): "expected one of 1 vae, 2 teacher",
        ("--part", "1", "--minutes", "0"): "--minutes: got 0",
        ("--part", "1", "--from", str(tmp_path / "none")): "holds no parcel",
    }
    for words, reason in cases.items():
        assert main([*words, *tiny(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and reason in line
    with pytest.raises(ValueError, match=r"got '9x16x16', expected GRID:SHARE:CLIPS"):
        parse_phase(["9x16x16"])
    with pytest.raises(ValueError, match=r"add up to 0\.5"):
        parse_phase(["9x16x16:0.5:4"])


def test_a_training_ends_by_steps_or_by_time_and_remembers_both() -> None:
    plain, timed = Clock(100, None), Clock(100, 0.5)
    assert not plain.is_over(99) and plain.is_over(100)
    assert plain.learning_rate_share(99, 1) == pytest.approx(1 / 45)
    timed.load_state_dict({"seconds": 29.0})
    assert not timed.is_over(1) and timed.learning_rate_share(1, 1) < 0.1
    timed.load_state_dict({"seconds": 31.0})
    assert timed.is_over(1) and timed.state_dict()["seconds"] >= 31
