"""The page on parts from outside: its examples are imported, named in configs as it says, and used."""

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import WanPipeline

import swd_video
from swd_video.cli.main import main
from swd_video.config import dump_config
from swd_video.core.schedule import ScaleSchedule
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The modules and entry points of the page, laid out as pip lays out an installed package."""
    folder = tmp_path_factory.mktemp("installed")
    modules = {code.split()[1].removesuffix(".py"): code for code in blocks("python") if "# my_" in code}
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    package = folder / "my_parts-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1\n")
    groups = tomllib.loads("\n".join(blocks("toml")))["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
        for group, points in groups.items()
    ]
    (package / "entry_points.txt").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in modules:
        sys.modules.pop(name, None)


@pytest.fixture
def config_with(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A config of one step that extends the tiny one by some pieces of YAML, each in a file of its own."""

    def write(*pieces: str) -> Path:
        path = tmp_path / "piece-0.yaml"
        path.write_text(dump_config(make_config("lora", steps=1)))
        for number, piece in enumerate((*pieces, f"data: {{cache: {tmp_path / 'cache'}}}\n"), start=1):
            path = tmp_path / f"piece-{number}.yaml"
            path.write_text(f"extends: piece-{number - 1}.yaml\n{piece}")
        return path

    return write


def settings_of(student: str) -> dict[str, Any]:
    return json.loads((Path(student) / "student.json").read_text())["made_of"]["settings"]


def test_adapter_encoder_and_objective_by_their_addresses(
    config_with: Callable[..., Path], tmp_path: Path
) -> None:
    pieces = [piece for piece in blocks("yaml") if piece.startswith("lo")]
    assert len(pieces) == 3
    config = config_with(*pieces)
    run = swd_video.distill(config, tmp_path / "run", overrides={"train.lr": 1e-5})
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["load"]["adapter"] == "my_models:MyModel" and saved["train"]["lr"] == 1e-5
    assert saved["loss"]["mmd"][0]["encoder"] == {"kind": "my_encoders:BlurConfig", "size": 4}
    objective = {"weight": 0.5, "stages": None, "kind": "my_losses:BrightnessConfig", "power": 2}
    assert saved["loss"]["others"] == settings_of(run.student)["loss.others"] == [objective]
    student = Student.load(run.student)
    assert student.adapter == "my_models:MyModel"
    assert [network.name for network in student.trained_through or ()] == ["my_encoders:BlurConfig"]
    assert student.pipeline().fps == 12
    assert swd_video.distill(config, tmp_path / "run", overrides={"train.lr": 1e-5}) == run
    assert main(["plan", str(config)]) == 0, "and what it costs can be counted"


def test_adapter_encoder_and_objective_by_their_entry_points(
    config_with: Callable[..., Path], tiny_wan_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_wan_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "MyPipeline"}))
    teacher = swd_video.load_teacher(folder)
    assert (teacher.spec.family, teacher.spec.fps, teacher.guidance_scale) == ("my-wan", 12, 3)
    config = config_with(
        f"model: {folder}\n",
        "loss: {mmd: [{encoder: {kind: blur}}], others: [{kind: brightness, power: 1}]}\n",
    )
    run = swd_video.distill(config, tmp_path / "run")
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["loss"]["mmd"][0]["encoder"] == {"kind": "blur", "size": 8}
    assert settings_of(run.student)["loss.others"] == [
        {"weight": 1.0, "stages": None, "kind": "brightness", "power": 1}
    ]
    assert swd_video.load_student(run.student).model.spec.family == "my-wan"


def test_metrics(tiny_wan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "kind": "teacher",
        "key": "teacher",
        "model": str(tiny_wan_folder),
        "steps": 1,
        "guidance_scale": 1.0,
    }
    config = {"prompts": ["a cat"], "rows": [row], "reference": "teacher", "size": "5x32x32", "cost": None}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    (piece,) = (piece for piece in blocks("yaml") if piece.startswith("metrics"))
    (tmp_path / "own.yaml").write_text(f"extends: base.yaml\n{piece}")
    figures = []
    for name, more in (("my_metrics:Brightness", ()), ("brightness", ("--metrics.others", "[brightness]"))):
        command = [
            "evaluate",
            str(tmp_path / "own.yaml"),
            "--out",
            str(tmp_path / "out"),
            "--device",
            "cpu",
            "--json",
        ]
        assert main([*command, *more]) == 0
        figures.append(json.loads(capsys.readouterr().out)["rows"]["teacher"]["brightness"])
        assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["metrics"]["others"] == [name]
    assert figures[0] == figures[1] and 0 < figures[0]["value"] < 1
    assert "Mean of all pixels, from 0 to 1." in (tmp_path / "out" / "index.html").read_text()


def test_scripts_of_another_form(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, table = tmp_path / "student", "one: a cat\n"
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    network = WanPipeline.from_pretrained(tiny_wan_folder).transformer
    Student(str(tiny_wan_folder), scheduler).save(student, network)
    (tmp_path / "film.notes").write_text(table)
    (tmp_path / "film.txt").write_text(table)
    report = swd_video.render(tmp_path / "film.notes", tmp_path / "out", model=str(student), device="cpu")
    assert report.count("rendered") == 1 and (tmp_path / "out" / "one.mp4").is_file()
    command = ["render", str(tmp_path / "film.txt"), "--out", str(tmp_path / "out"), "--model", str(student)]
    assert main([*command, "--device", "cpu", "--reader", "my_scripts:NotesReader"]) == 0
    assert capsys.readouterr().out.startswith("0 rendered, 1 skipped")
    (tmp_path / "film.notes").write_text("one a cat\n")
    with pytest.raises(ValueError, match=r"film\.notes:1: got 'one a cat', expected id: prompt"):
        swd_video.load_script(tmp_path / "film.notes")
