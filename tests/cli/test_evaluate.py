import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from swd_video.cli.main import main
from swd_video.data.video import write_video
from swd_video.evaluation.attribute_judge import AttributeJudge
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import MeanOfClips
from swd_video.files import alone_in
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.loading import load_teacher


class Brightness(MeanOfClips):
    """A metric from outside: this module is no part of the package."""

    key = "brightness"
    title = "brightness"
    meaning = "Mean grey level, 0 to 255."
    margin = 2.0
    network = "somebody/bright-net"

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        return {self.key: batch.frames.mean(axis=(1, 2, 3, 4))}


class Copy(Brightness):
    key = "flow"


PROMPTS = ["a red square moving slowly", "a green square moving fast"]
COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60)}


@pytest.fixture(scope="session")
def real_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips, five of each prompt in turn, of the size and rate that the tiny models make."""
    folder = tmp_path_factory.mktemp("real")
    lines = []
    for number in range(10):
        prompt = PROMPTS[number % 2]
        frames = np.full((10, 48, 64, 3), 150 + 10 * number, dtype=np.uint8)
        for time, frame in enumerate(frames):
            left = 2 + number + (1 + 2 * (number % 2)) * time
            frame[16:32, left : left + 14] = COLOURS[prompt.split()[1]]
        write_video(folder / f"{number}.mp4", frames, 16.0)
        lines.append(json.dumps({"path": f"{number}.mp4", "caption": prompt}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


@pytest.fixture
def values(
    tiny_wan_folder: Path, student_folder: Path, real_manifest: Path, tmp_path: Path
) -> dict[str, Any]:
    """A whole config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classes = {"colour": ["red", "green"], "speed": ["slowly", "fast"]}
        AttributeJudge(classes, input_frames=5, input_size_px=16, width=4).save(tmp_path / "judge")
    teacher, real = str(tiny_wan_folder), {"manifest": str(real_manifest)}
    return {
        "prompts": PROMPTS,
        "reference": "teacher",
        "margins": {"flow": 0.03},
        "rows": [
            {"kind": "real", "key": "real", "clips": {**real, "count": 4}},
            {"kind": "real", "key": "codec", "clips": {**real, "count": 4}, "through_vae_of": teacher},
            {"kind": "teacher", "key": "teacher", "model": teacher, "steps": 2, "guidance_scale": 2.0},
            {"kind": "student", "key": "student", "model": str(student_folder), "title": "ours <3 stages>"},
        ],
        "metrics": {"judge": str(tmp_path / "judge"), "real_clips": {**real, "first": 4}},
        "cost": {"rounds": 1, "batch_size": 2},
        "page": {"prompts": 2},
        "batch_size": 3,
    }


def write(values: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_rows_are_made_judged_timed_and_shown_once(
    values: dict[str, Any],
    small_encoders: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    values["metrics"] |= small_encoders
    command = ["evaluate", write(values, tmp_path), "--out", str(out), "--device", "cpu", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["rows"]
    assert list(rows) == ["real", "codec", "teacher", "student"]
    assert rows["teacher"]["flow"]["value"] == 1.0 and found["about"]["spread_of"] == "real clips"
    names = {
        "adherence_colour",
        "adherence_speed",
        "frechet",
        "kernel",
        "nearest",
        "diversity",
        "spread",
        "consistency",
    }
    assert set(rows["student"]) >= names
    assert found["floor"]["kernel"]["value"] < rows["student"]["kernel"]["value"]
    student = found["comparisons"][-1]
    assert (student["row"], student["against"]) == ("student", "teacher") and len(found["comparisons"]) == 3
    assert set(student["differences"]) == names - {"frechet"} | {"flow", "sharpness", "flicker"}
    assert student["differences"]["flow"]["margin"] == 0.03
    for distance in ("frechet", "nearest"):
        assert rows["real"][distance]["value"] < rows["student"][distance]["value"]
    for name, figure in rows["student"].items():
        if name == "kernel":  # which two prompts leave open
            assert figure["low"] is figure["high"] is None
        elif isinstance(figure, dict):
            assert figure["low"] <= figure["value"] <= figure["high"], name
    assert (rows["teacher"]["transformer_calls"], rows["student"]["transformer_calls"]) == (4, 3)
    assert rows["student"]["transformer_tflops"] < rows["teacher"]["transformer_tflops"]
    assert "total_seconds" not in rows["real"]
    assert found["about"]["unrecorded"] == ["student"]
    assert (out / "table.md").read_text().count("\n| ") == (4 + 1) + (1 + 3)

    page = Path(found["page"]).read_text()
    assert page.count("data:video/mp4;base64,") == 2 * 4
    assert "ours &lt;3 stages&gt;" in page and "ours <3" not in page
    assert page.count("<svg") == page.count("</svg>") == 14
    outside = re.findall(r"(?:src|href)=\"(?!data:)[^\"]*|https?://[^\s\"<]*|url\(|@import", page)
    assert outside == []

    made = {path: path.stat().st_mtime_ns for path in (out / "clips").rglob("*.npz")}
    # Two batches in each row and in the real clips, and scores.
    assert len(made) == 5 * 3
    assert main(command) == 0
    output = capsys.readouterr()
    assert "clips, about" not in output.err and "judging" not in output.err and "timing" not in output.err
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert json.loads(output.out) == found

    # What a kill leaves goes, costs that cannot be read are measured again, and one run at a time writes there.
    (costs,) = (out / "costs").iterdir()
    costs.write_bytes(costs.read_bytes()[:50])
    homes = out, costs.parent, next(iter(made)).parent
    for home in homes:
        (home / ".0000.npz.0123456789abcdef.draft").write_bytes(b"half")
    with alone_in(out):
        assert main(command) == 1
    assert f"error: {out}: another run is writing there" in capsys.readouterr().err
    assert main(command) == 0
    output = capsys.readouterr()
    assert f"warning: {costs}: the file is damaged; the rows are timed again." in output.err
    assert json.loads(output.out)["rows"]["student"].keys() == rows["student"].keys()
    assert not [path for home in homes for path in home.glob(".*")]


def test_without_real_clips_distances_are_to_the_reference(
    values: dict[str, Any],
    small_encoders: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values |= {"rows": values["rows"][2:], "metrics": small_encoders, "cost": None, "num_prompts": 1}
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "frechet" not in found["rows"]["teacher"] and "frechet" in found["rows"]["student"]
    assert found["about"]["clips"] == {"teacher": 2, "student": 2}
    assert not any(name.startswith("adherence") for name in found["rows"]["student"])


def test_a_metric_from_outside_is_measured_told_and_compared(
    values: dict[str, Any],
    small_encoders: dict[str, str],
    student_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values |= {"rows": values["rows"][2:], "cost": None, "page": {"prompts": 0}}
    values["metrics"] = {**small_encoders, "others": [f"{__name__}:Brightness"]}
    values["targets"] = [{"row": "student", "metric": "brightness", "no_worse_than": "teacher"}]
    command = ["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    means = {key: row["brightness"]["value"] for key, row in found["rows"].items()}
    for key, mean in means.items():
        (folder,) = (tmp_path / "out" / "clips").glob(f"{key}-*")
        frames = [np.load(path)["frames"] for path in sorted(folder.glob("0*.npz"))]
        assert mean == pytest.approx(np.concatenate(frames).mean())
    (compared,) = found["comparisons"]
    difference = compared["differences"]["brightness"]
    assert difference["value"] == pytest.approx(means["student"] - means["teacher"])
    assert difference["margin"] == found["margins"]["brightness"] == 2.0
    assert found["targets"][0]["name"] == "student: brightness no worse than teacher's by 2"
    assert "| brightness ↑ |" in (tmp_path / "out" / "table.md").read_text()
    assert "Mean grey level, 0 to 255." in Path(found["page"]).read_text()

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "student").symlink_to(student_folder)
    record = {"model": "teacher", "loss": {"mmd": [{"encoder": {"name": "somebody/bright-net"}}]}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(record))
    values["rows"][1]["model"] = str(tmp_path / "run" / "student")
    write(values, tmp_path)
    assert main(command) == 2
    assert "metrics.others: brightness: 'somebody/bright-net' trained" in capsys.readouterr().err


def test_no_student_is_judged_by_what_trained_it(
    values: dict[str, Any], student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "student").symlink_to(student_folder)
    values["rows"][3]["model"] = str(run / "student")
    command = ["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out")]
    record = {"model": "teacher", "loss": {"mmd": [{"features": {"encoder": "EfficientNet"}}]}}
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    assert main(command) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "metrics.encoder: 'efficientnet' trained" in message
    assert "loss.mmd[0].features.encoder" in message
    assert not (tmp_path / "out").exists()


def test_no_copied_student_is_judged_by_what_trained_it(
    values: dict[str, Any], student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, encoder = tmp_path / "copy", tmp_path / "encoder"
    shutil.copytree(student_folder, student)
    encoder.mkdir()
    (encoder / "model.safetensors").write_bytes(b"weights")
    fields = json.loads((student / "student.json").read_text())
    fields["encoders"] = [{"name": "my-videomae", "fingerprint": fingerprint_folders([encoder])}]
    (student / "student.json").write_text(json.dumps(fields))
    values["rows"][3]["model"] = str(student)
    values["metrics"]["encoder"] = str(encoder)
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "student.json: encoders: 'my-videomae'" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "nobody"}, "reference: no row 'nobody'; the rows are real, codec, teacher, student"),
        ({"prompts_file": "list.txt"}, "prompts and prompts_file: got both"),
        ({"prompts": ["a cow"]}, "names no colour that the judge knows"),
        ({"prompts": ["a red and green square moving slowly"]}, "names both 'red' and 'green' as colour"),
        ({"prompts": ["one", "one"]}, "prompt 2, 'one', is the same as 1"),
        ({"size": "9x96x96"}, "its clips are 9x48x64, the others' are 9x96x96"),
        ({"sampels": 3}, "compare.yaml:"),
    ],
)
def test_wrong_input_is_one_line(
    change: dict[str, Any],
    message: str,
    values: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", write(values | change, tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize(
    ("metric", "row", "judged", "message"),
    [
        (
            "adherence",
            "student",
            False,
            "'adherence' needs a judge that reads it, and there is none; name one as",
        ),
        ("travel", "student", False, "'travel' needs a judge that reads it, and there is none"),
        ("variety", "student", True, "judge does not; name one as metrics.judge, or leave the target out."),
        ("adherence_shape", "student", True, "'adherence_shape' needs a judge that reads it, and /"),
        (
            "total_seconds",
            "codec",
            True,
            "'total_seconds' of row 'codec', which no model makes; name another row.",
        ),
    ],
)
def test_targets_on_what_is_not_measured_are_refused_before_anything_is_made(
    metric: str,
    row: str,
    judged: bool,
    message: str,
    values: dict[str, Any],
    small_encoders: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values["targets"] = [{"row": row, "metric": metric, "at_least": 1}]
    values["metrics"] |= small_encoders | ({} if judged else {"judge": None})
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: targets[0].metric: ") and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics.real_clips.count", "3"], "metrics.real_clips: got 3 clips, expected 4 or more, as the distance"),
        (["--metrics.real_clips.first", "7"], "metrics.real_clips: got 3 clips, expected 4 or more, as the distance"),
        (
            ["--num_prompts", "1", "--samples_per_prompt", "1"],
            "row 'teacher': has 1 clip, expected 2 or more, as the distances of sets are measured; raise num_prompts",
        ),
    ],
)  # fmt: skip
def test_too_few_clips_for_a_distance_are_refused_before_anything_is_made(
    flags: list[str],
    message: str,
    values: dict[str, Any],
    small_encoders: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values["metrics"] |= small_encoders
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {message}") and not (tmp_path / "out").exists()


def test_real_rows_share_no_clip_with_what_they_are_measured_to(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values["metrics"]["real_clips"]["first"] = 3
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "1 of the 4 clips of row 'real' are among them" in capsys.readouterr().err


def test_keys_of_rows_are_named_with_their_line(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values["rows"][2]["guidance"] = 3
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert re.search(
        r"compare\.yaml:\d+: rows\[2\]\.guidance: unknown key; did you mean guidance_scale\?",
        capsys.readouterr().err,
    )


def test_a_key_of_a_section_without_kind_is_said_to_be_one(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values["metrics"]["real_clips"]["kind"] = "tools.pocket.rows:ComposedClips"
    assert main(["evaluate", write(values, tmp_path), "--out", str(tmp_path / "out")]) == 2
    message = "of kind tools.pocket.rows:ComposedClips: it belongs to one without kind; leave it out, or leave kind out"
    assert message in capsys.readouterr().err


def test_models_share_what_is_the_same(tiny_wan_folder: Path, student_folder: Path) -> None:
    from swd_video.evaluation.model_pool import ModelPool

    pool = ModelPool(torch.float32, "cpu")
    teacher, student = pool.teacher(str(tiny_wan_folder)), pool.student(str(student_folder))
    assert student.model.vae is teacher.vae and pool.teacher(str(tiny_wan_folder)) is teacher
    assert student.model.transformer is not teacher.transformer
    assert load_teacher(tiny_wan_folder).vae is not teacher.vae


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics.others": f"['{__name__}:Copy']"}, "there is a metric of key 'flow' already"),
        ({"metrics.others": "[pathlib:Path]"}, "is no metric"),
        ({"metrics.others": "[no_such_module:Metric]"}, "expected module:Class"),
        ({"margins": "{warmth: 0.1}"}, "margins.warmth: no such margin; known are adherence, kernel"),
    ],
)
def test_metrics_and_margins_that_are_none_are_refused(
    change: dict[str, str],
    message: str,
    values: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (flag, value), out = *change.items(), tmp_path / "out"
    assert main(["evaluate", write(values, tmp_path), "--out", str(out), f"--{flag}", value]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and not out.exists()
