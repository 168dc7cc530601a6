"""`swd-video render` from its arguments to its exit code."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from swd_video.cli.main import main

SCRIPT = "shots:\n  - {id: one, prompt: first}\n  - {id: two, prompt: second}\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "film.yaml"
    path.write_text(SCRIPT)
    return path


def test_json_is_the_only_thing_on_stdout(
    script: Path, student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = said.append  # type: ignore[method-assign]
    for library in ("transformers.distributed.tensor_parallel", "transformers.modeling_utils"):
        logging.getLogger(library).addHandler(listener)
    arguments = ["render", str(script), "--out", str(tmp_path / "out"), "--model", str(student_folder)]
    assert main([*arguments, "--device", "cpu", "--json"]) == 0
    captured = capsys.readouterr()
    assert not said, "libraries do not talk between the lines"
    printed = json.loads(captured.out)
    assert [shot["status"] for shot in printed["shots"]] == ["rendered", "rendered"]
    assert all(Path(shot["file"]).is_file() for shot in printed["shots"])
    assert "[2/2] two: 9 frames, 0.5625 s, rendered in" in captured.err

    assert main([*arguments, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("0 rendered, 2 skipped, 0 failed in ")


def test_a_failed_shot_is_exit_code_1(
    script: Path, student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "one.mp4").mkdir(parents=True)
    arguments = ["--out", str(tmp_path / "out"), "--model", str(student_folder), "--device", "cpu", "--json"]
    assert main(["render", str(script), *arguments]) == 1
    one, two = json.loads(capsys.readouterr().out)["shots"]
    assert (one["status"], one["file"], two["status"]) == ("failed", None, "rendered")
    assert "one.mp4" in one["error"]


def test_wrong_input_is_exit_code_2(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(script), "--out", str(script)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: --out {script}: cannot be written to: it is no folder. Choose another folder.\n"
    )

    out = tmp_path / "out"
    assert main(["render", str(script), "--out", str(out), "--model", "no-such", "--device", "cpu"]) == 2
    assert "error: model 'no-such': does not exist" in capsys.readouterr().err

    script.write_text(SCRIPT.replace("second", ""))
    assert main(["render", str(script), "--out", str(out)]) == 2
    assert f"error: {script}:3: shots[1].prompt: expected text" in capsys.readouterr().err
    assert not out.exists()

    with pytest.raises(SystemExit) as stopped:
        main(["render", str(script)])
    assert stopped.value.code == 2


def test_how_the_model_is_loaded_can_be_said(
    script: Path, student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["render", str(script), "--out", str(tmp_path / "out"), "--model", str(student_folder)]
    arguments += ["--device", "cpu"]
    assert main([*arguments, "--load.cpu-offload", "model"]) == 2
    assert (
        "error: cpu_offload: got 'model' for device cpu, expected an accelerator" in capsys.readouterr().err
    )
    assert main([*arguments, "--load.attention", "flash"]) == 2
    assert "error: attention backend 'flash' does not run on cpu" in capsys.readouterr().err
    assert main([*arguments, "--load.vae-slicing", "--load.float8-weights"]) == 0
    assert capsys.readouterr().out.startswith("2 rendered, 0 skipped")
    # Not the same clips: they are rendered anew without.
    assert main([*arguments, "--load.vae-slicing"]) == 0
    assert capsys.readouterr().out.startswith("2 rendered, 0 skipped")


RENDER = """
import sys
from swd_video.cli.main import main
code = main(["render", *sys.argv[1:]])
print(*sys.modules)
sys.exit(code)
"""


def test_rendering_imports_nothing_of_training_or_other_families(
    script: Path, student_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        str(script),
        "--out",
        str(tmp_path / "out"),
        "--model",
        str(student_folder),
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-c", RENDER, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "diffusers", "swd_video.studio.render", "swd_video.models.wan"} <= imported
    ours = ("training", "objectives", "losses", "evaluation", "cost", "data.encode", "data.latent_cache")
    families = ("ltx", "hunyuan", "cogvideox")
    unused = [f"swd_video.{name}" for name in ours] + [f"swd_video.models.{name}" for name in families]
    unused += ["cv2", "tensorboard"]
    assert not imported.intersection(unused)
