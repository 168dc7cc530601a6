"""The doctor finds out what runs, and survives whatever is missing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from swd_video.cli.main import main
from swd_video.machine import describe, examine

from ..forked import run_forked


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return examine()


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


def test_this_machine_can_render(found: dict[str, Any]) -> None:
    assert found["ready"] is True
    assert found["torch"]["version"] == torch.__version__
    assert by_name(found["devices"])["cpu"]["total_gib"] > 0
    assert found["disk"]["free_gib"] > 0


def test_attention_was_called_and_one_is_chosen_for_each_device(found: dict[str, Any]) -> None:
    attention = by_name(found["attention"])
    assert attention["native on cpu"]["works"] is True
    assert "ran on cpu" in attention["native on cpu"]["detail"]
    for device in found["devices"]:
        chosen = [
            entry for entry in attention.values() if entry["device"] == device["name"] and entry["chosen"]
        ]
        assert len(chosen) == 1
        assert chosen[0]["works"] is True
    assert attention["native on cpu"]["chosen"] is True


def test_xformers_is_judged_by_a_call(found: dict[str, Any]) -> None:
    xformers = found["xformers"]
    if not torch.cuda.is_available():
        assert xformers["works"] is False, "there is no xformers kernel that runs on a CPU"
    assert xformers["installed"] is (xformers["version"] is not None)
    assert xformers["detail"]


def test_video_is_really_written_and_read(found: dict[str, Any]) -> None:
    assert by_name(found["encoders"])["libx264"] == {
        "name": "libx264",
        "works": True,
        "detail": "wrote 8 frames of h264",
    }
    assert by_name(found["encoders"])["webp"]["works"] is True
    assert by_name(found["decoders"])["pyav"]["detail"] == "read 8 frames back"


def test_text_and_json_say_the_same(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == found.keys()
    assert [entry["works"] for entry in printed["decoders"]] == [
        entry["works"] for entry in found["decoders"]
    ]

    text = describe(printed)
    assert text.endswith("ready to render")
    assert (
        f"xformers   does not work: {printed['xformers']['detail']}" in text or printed["xformers"]["works"]
    )
    assert "native on cpu: ok: ran on cpu in float32 (chosen)" in text


WITHOUT = """
import sys
from importlib.machinery import PathFinder
for name in [name for name in sys.modules if name.split(".")[0] in sys.argv[1:]]:
    del sys.modules[name]
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in sys.argv[1:] else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from swd_video.cli.main import main
sys.exit(main(["doctor", "--json"]))
"""


def test_missing_options_are_findings() -> None:
    result = run_forked(WITHOUT, "decord", "xformers")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert by_name(found["decoders"])["decord"]["works"] is False
    assert "decord" in by_name(found["decoders"])["decord"]["detail"]
    assert by_name(found["decoders"])["pyav"]["works"] is True
    assert found["xformers"]["works"] is False


def test_missing_needs_are_findings_and_exit_code_1() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, "torch", "av"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    assert found["ready"] is False
    assert found["torch"]["works"] is False
    assert "torch" in found["torch"]["detail"]
    assert by_name(found["encoders"])["libx264"]["works"] is False
    assert found["disk"]["free_gib"] > 0, "the rest is examined all the same"


def test_disk_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    missing = examine(tmp_path / "absent")
    assert "FileNotFoundError" in missing["disk"]["error"]
    assert missing["ready"] is True
    assert "FileNotFoundError" in describe(missing)
