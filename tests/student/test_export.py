"""Exports: the same clips in stock diffusers, the same files twice, and nothing overwritten."""

import hashlib
import json
import os
import re
import shutil
import threading
from base64 import b64decode
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline, WanTransformer3DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from huggingface_hub import ModelCard
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from swd_video.core.schedule import ScaleSchedule
from swd_video.models.checkpoints import cast_network
from swd_video.models.loading import VideoSpec, write_video_spec
from swd_video.models.lora import add_lora, lora_in_use
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.card import stock_lora_code, stock_merged_code
from swd_video.student.export import (
    check_push,
    export_student,
    push_folder,
    read_lora_schedule,
)
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import (
    LORA_FILE_NAME,
    Student,
    load_student,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"
PLACEHOLDER = "path/to/this/folder"


@pytest.fixture
def lora_student(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> Path:
    transformer = tiny_wan_pipe.transformer
    add_lora(transformer, 4, ["to_q", "to_v", "ffn.net.0.proj"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    folder = tmp_path / "run" / "student"
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(folder, get_peft_model_state_dict(transformer))
    return folder


@pytest.fixture
def full_student(tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path) -> Path:
    transformer = WanTransformer3DModel.from_pretrained(tiny_wan_folder, subfolder="transformer")
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.05)
    folder = tmp_path / "full" / "student"
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(folder, transformer)
    return folder


def _ours(pipe: ScaleWisePipeline, prompt: str = "a cat in the grass") -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, generator=torch.Generator().manual_seed(7)).frames


def _stock(pipe: WanPipeline, **options: Any) -> np.ndarray:
    """What docs/export.md says, seed included."""
    assert type(pipe) is WanPipeline
    pipe.set_progress_bar_config(disable=True)
    noise = pipe.scheduler.draw_first_noise(
        1, pipe.transformer.config.in_channels, torch.Generator().manual_seed(7)
    )
    return pipe(
        "a cat in the grass",
        latents=noise,
        num_inference_steps=len(pipe.scheduler.timesteps),
        guidance_scale=1.0,
        max_sequence_length=48,
        **options,
    ).frames


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def _with_scheduler(pipe: WanPipeline, export: Path) -> WanPipeline:
    pipe.scheduler = ScaleWiseFlowMatchScheduler.from_pretrained(export, subfolder="scheduler")
    return pipe


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_stock_pipeline_with_the_lora_makes_our_clip_bit_for_bit(
    lora_student: Path, tiny_wan_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    export = export_student(Student.load(lora_student), tmp_path / "lora").folder
    dtypes = {"transformer": torch.float32, "default": dtype}
    stock = _with_scheduler(WanPipeline.from_pretrained(tiny_wan_folder, dtype=dtypes), export)
    stock.load_lora_weights(export)
    stock.fuse_lora()
    stock.unload_lora_weights()
    cast_network(stock.transformer, dtype)
    ours = _ours(load_student(lora_student, dtype=dtype))
    assert np.array_equal(_stock(stock), ours)
    without = _with_scheduler(WanPipeline.from_pretrained(tiny_wan_folder, dtype=dtype), export)
    assert np.abs(_stock(without) - ours).max() > 1e-3
    merged = export_student(Student.load(lora_student), tmp_path / "merged", form="merged").folder
    assert np.array_equal(_ours(load_student(merged, dtype=dtype)), ours)


def test_additions_of_a_model_whose_files_are_no_finer_stay_beside_its_weights(
    lora_student: Path, tiny_wan_folder: Path, tmp_path: Path
) -> None:
    WanPipeline.from_pretrained(tiny_wan_folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    facts = json.loads((lora_student / "student.json").read_text())
    shutil.copytree(lora_student, tmp_path / "student")
    (tmp_path / "student" / "student.json").write_text(json.dumps(facts | {"base_model": "../base"}))
    student = load_student(tmp_path / "student", dtype=torch.bfloat16)
    assert lora_in_use(student.model.transformer) is not None
    stock = _with_scheduler(
        WanPipeline.from_pretrained(tmp_path / "base", dtype=torch.bfloat16), lora_student
    )
    stock.load_lora_weights(lora_student)
    assert np.array_equal(_stock(stock), _ours(student))
    # The card says so: it has the code of these lines, and not that which sums in float32.
    export = export_student(Student.load(tmp_path / "student"), tmp_path / "lora").folder
    card = (export / "README.md").read_text()
    assert stock_lora_code("../base", PLACEHOLDER, fused=False) in card and "clip, bit for bit:" in card
    assert "fuse_lora" not in card
    for dtype in (torch.float32, torch.float16):
        network = load_student(tmp_path / "student", dtype=dtype).model.transformer
        assert (lora_in_use(network) is None) is (dtype == torch.float32)


def test_a_generator_for_each_clip_reaches_every_stage(lora_student: Path, tmp_path: Path) -> None:
    folder = export_student(Student.load(lora_student), tmp_path / "merged", form="merged").folder
    prompts = ["a cat", "two dogs"]
    stock, ours = DiffusionPipeline.from_pretrained(folder), load_student(folder)
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
    latents = stock.scheduler.draw_first_noise(2, 4, [torch.Generator().manual_seed(seed) for seed in (3, 4)])
    got = stock(
        prompts, latents=latents, num_inference_steps=3, guidance_scale=1.0, max_sequence_length=48
    ).frames
    expected = ours(prompts, generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)]).frames
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_merged_folder_is_an_ordinary_pipeline_that_makes_our_clip(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, tiny_schedule: ScaleSchedule
) -> None:
    student = request.getfixturevalue(f"{kind}_student")
    done = export_student(Student.load(student), tmp_path / "merged", form="merged")
    ours = _ours(load_student(student))
    stock = DiffusionPipeline.from_pretrained(done.folder)
    assert isinstance(stock.scheduler, ScaleWiseFlowMatchScheduler)
    assert stock.scheduler.schedule == tiny_schedule
    assert np.array_equal(_stock(stock), ours)
    assert np.array_equal(_stock(WanPipeline.from_pretrained(done.folder)), ours)
    assert np.array_equal(_ours(load_student(done.folder)), ours)
    assert not any("lora" in name for name in stock.transformer.state_dict())
    assert not [path for path in done.folder.rglob("*.json") if "_name_or_path" in path.read_text()]


def test_a_merged_student_keeps_frame_rate_and_prompt_length(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    tiny_wan_pipe.save_pretrained(tmp_path / "teacher")
    write_video_spec(tmp_path / "teacher", VideoSpec(fps=12.0, text_length=20))
    made = Student(str(tmp_path / "teacher"), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "student", tiny_wan_pipe.transformer)
    done = export_student(Student.load(tmp_path / "student"), tmp_path / "merged")
    pipe = load_student(done.folder)
    assert pipe.fps == 12.0 and pipe.model.spec.text_length == 20
    assert "max_sequence_length=20" in (done.folder / "README.md").read_text()


def test_the_lora_file_says_rank_alpha_and_stages(
    lora_student: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    path = (
        export_student(Student.load(lora_student), tmp_path / "lora", base_model="me/teacher").folder
        / LORA_FILE_NAME
    )
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    adapter = json.loads(metadata[LORA_ADAPTER_METADATA_KEY])
    assert adapter["transformer.r"] == adapter["transformer.lora_alpha"] == 4
    assert len(adapter["transformer.target_modules"]) == 3 * 5
    assert json.loads(metadata["swd_video"])["base_model"] == "me/teacher"
    assert read_lora_schedule(path) == tiny_schedule
    before = load_file(lora_student / LORA_FILE_NAME)
    after = load_file(path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(name.startswith("transformer.blocks.") for name in after)
    with pytest.raises(ValueError, match="no stages in its metadata"):
        read_lora_schedule(lora_student / LORA_FILE_NAME)


def test_the_metadata_gives_each_layer_its_own_scale(lora_student: Path, tmp_path: Path) -> None:
    # Ranks that differ: a loader that took one alpha for all would change the strength of the smaller ones.
    path = lora_student / LORA_FILE_NAME
    tensors = load_file(path)
    small = {
        name: (t[:2] if "lora_A" in name else t[:, :2])
        for name, t in tensors.items()
        if "blocks.1.ffn" in name
    }
    save_file({name: t.contiguous() for name, t in (tensors | small).items()}, path)
    export = export_student(Student.load(lora_student), tmp_path / "lora").folder
    pipe = WanPipeline.from_pretrained(
        lora_student / json.loads((lora_student / "student.json").read_text())["base_model"]
    )
    pipe.load_lora_weights(export)
    scales = {m.scaling["default_0"] for m in pipe.transformer.modules() if hasattr(m, "scaling")}
    ranks = {m.r["default_0"] for m in pipe.transformer.modules() if hasattr(m, "scaling")}
    assert scales == {1.0} and ranks == {2, 4}


def test_exporting_twice_gives_the_same_files(lora_student: Path, full_student: Path, tmp_path: Path) -> None:
    for student, form in ((lora_student, "lora"), (lora_student, "merged"), (full_student, "merged")):
        out = tmp_path / f"{student.parent.name}-{form}"
        first = export_student(Student.load(student), out, form=form)
        digests = _digests(out)
        assert digests.keys() == first.files.keys()
        (out / "stray.txt").write_text("from before")
        export_student(Student.load(student), out, form=form)
        assert _digests(out) == digests
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_exported_lora_is_a_student_again(lora_student: Path, tmp_path: Path) -> None:
    export = export_student(Student.load(lora_student), tmp_path / "lora").folder
    assert np.array_equal(_ours(load_student(export)), _ours(load_student(lora_student)))
    again = export_student(Student.load(export), tmp_path / "again").folder
    assert _digests(again) == _digests(export)


def test_the_card_has_base_model_stages_figures_and_licence(lora_student: Path, tmp_path: Path) -> None:
    run = lora_student.parent
    (run / "train.json").write_text('{"steps": 300, "seconds": 12.5, "stage_losses": [0.25, null, 0.5]}')
    (run / "config.yaml").write_text("train: {lr: 0.0001, log_every: 10}\ndata: {cache: out/cache}\n")
    done = export_student(
        Student.load(lora_student),
        tmp_path / "lora",
        base_model="me/teacher",
        license="mit",
        repo="me/student",
    )
    card = ModelCard.load(done.folder / "README.md")
    assert card.data.base_model == "me/teacher" and card.data.license == "mit"
    facts = card.data.to_dict()
    assert facts["library_name"] == "diffusers" and facts["pipeline_tag"] == "text-to-video"
    assert "lora" in card.data.tags
    for line in ("| 2 | 0.8 | 800 | 3x4x4 |", "| steps | 300 |", "| loss of stage 2 | never trained |"):
        assert line in card.text
    assert "| `train.lr` | 0.0001 |" in card.text
    assert "log_every" not in card.text and "cache" not in card.text
    assert 'student = "me/student"' in card.text
    for code in _python_blocks(card.text):
        compile(code, "card", "exec")


def test_the_licence_comes_from_the_base_model(
    tiny_wan_folder: Path, lora_student: Path, full_student: Path, tmp_path: Path
) -> None:
    unknown = export_student(Student.load(lora_student), tmp_path / "unknown")
    assert unknown.license is None and "did not find which" in (unknown.folder / "README.md").read_text()
    licensed = tmp_path / "licensed"
    shutil.copytree(tiny_wan_folder, licensed)
    (licensed / "README.md").write_text("---\nlicense: openrail\n---\n# A teacher\n")
    record = json.loads((full_student / "student.json").read_text())
    (full_student / "student.json").write_text(
        json.dumps(record | {"base_model": os.path.relpath(licensed, full_student)})
    )
    assert export_student(Student.load(full_student), tmp_path / "known").license == "openrail"
    assert export_student(Student.load(full_student), tmp_path / "told", license="mit").license == "mit"


def test_the_documented_code_is_the_code_of_the_cards() -> None:
    blocks = [block.strip() for block in _python_blocks(DOCUMENT.read_text())]
    assert stock_lora_code("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", PLACEHOLDER) in blocks
    assert stock_merged_code(PLACEHOLDER) in blocks


def test_a_base_model_with_a_timestep_for_every_token_has_no_stock_code(
    tiny_wan_pipe: WanPipeline, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    tiny_wan_pipe.register_to_config(expand_timesteps=True)
    tiny_wan_pipe.save_pretrained(tmp_path / "teacher")
    made = Student(str(tmp_path / "teacher"), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "student", tiny_wan_pipe.transformer)
    card = (
        export_student(Student.load(tmp_path / "student"), tmp_path / "merged").folder / "README.md"
    ).read_text()
    assert "A stock diffusers pipeline cannot sample it" in card and "draw_first_noise" not in card
    assert _ours(load_student(tmp_path / "merged")).shape == (1, 9, 48, 64, 3)


def test_a_whole_student_is_no_lora(full_student: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--form lora: .* trained with all its weights.* --form merged"):
        export_student(Student.load(full_student), tmp_path / "lora", form="lora")
    assert export_student(Student.load(full_student), tmp_path / "default").form == "merged"


def test_windows_are_not_exported(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, local_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    student = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(local_schedule))
    student.save(tmp_path / "student", tiny_wan_pipe.transformer)
    with pytest.raises(
        ValueError, match=r"schedule\[1\]\.attention: got windows .* stock diffusers pipelines"
    ):
        export_student(Student.load(tmp_path / "student"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rescaled_positions_are_kept_and_not_exported(full_student: Path, tmp_path: Path) -> None:
    record = json.loads((full_student / "student.json").read_text())
    (full_student / "student.json").write_text(json.dumps(record | {"positions": "rescaled"}))
    assert Student.load(full_student).positions == "rescaled"
    with pytest.raises(ValueError, match="rescaled positions, which stock pipelines do not count"):
        export_student(Student.load(full_student), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_export_is_left_alone(lora_student: Path, tiny_wan_folder: Path, tmp_path: Path) -> None:
    before = _digests(lora_student)
    with pytest.raises(ValueError, match="is the student itself"):
        export_student(Student.load(lora_student), lora_student)
    with pytest.raises(ValueError, match="is not empty and holds no earlier export"):
        export_student(Student.load(lora_student), lora_student.parent)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        export_student(Student.load(lora_student), tmp_path / "notes")
    whole = export_student(Student.load(lora_student), tmp_path / "whole", form="merged").folder
    with pytest.raises(ValueError, match="is a whole pipeline; expected the student/ folder"):
        export_student(Student.load(whole), tmp_path / "out")
    assert _digests(lora_student) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize("header", ["foo: [", "- a", "model-index: 3", "tags: 5"])
def test_a_card_that_cannot_be_read_says_nothing(
    header: str, tiny_wan_folder: Path, full_student: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "README.md").write_text(f"---\n{header}\n---\n")
    with pytest.raises(ValueError, match="is not empty and holds no earlier export"):
        export_student(Student.load(full_student), broken)
    base = tmp_path / "base"
    shutil.copytree(tiny_wan_folder, base)
    shutil.copy(broken / "README.md", base)
    student = replace(Student.load(full_student), base_model=str(base))
    assert export_student(student, tmp_path / "out").license is None


def test_a_damaged_lora_file_is_named_and_leaves_nothing(lora_student: Path, tmp_path: Path) -> None:
    path = lora_student / LORA_FILE_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{LORA_FILE_NAME}: is no whole safetensors file"):
        export_student(Student.load(lora_student), tmp_path / "lora")
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_a_push_that_cannot_work_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    for repo, base, message in (
        (
            "me/student",
            "me/teacher",
            r"--push me/student: not logged in; run `hf auth login` or set HF_TOKEN",
        ),
        ("student", "me/teacher", "--push student: expected the name of a repository, OWNER/NAME"),
        ("me/student", "../teacher", r"the folder \.\./teacher, which readers do not have; .* --base"),
    ):
        with pytest.raises(ValueError, match=message):
            check_push(repo, base)


def test_an_unreachable_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    check_push("me/student", "me/teacher")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="--push me/student: ") as caught:
        push_folder(tmp_path, "me/student")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


class _Hub(BaseHTTPRequestHandler):
    """What a hub answers to its own client while it takes a folder: protocol and nothing else."""

    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == "Bearer hf_not_a_token"
        address = f"http://{self.headers['Host']}/me/student"
        if self.path == "/api/repos/create":
            assert json.loads(body)["name"] == "student"
            answer: dict[str, object] = {"url": address}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif self.path == "/api/models/me/student/preupload/main":
            asked = json.loads(body)["files"]
            answer = {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked
                ]
            }
        elif self.path == "/api/models/me/student/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            self.files.update(
                (line["value"]["path"], b64decode(line["value"]["content"]))
                for line in lines
                if line["key"] == "file"
            )
            answer = {"commitUrl": f"{address}/commit/abc", "commitOid": "abc"}
        else:
            self.send_error(404)
            return
        reply = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_push_brings_every_file_and_returns_the_address(
    lora_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_student(Student.load(lora_student), tmp_path / "lora").folder
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    try:
        assert push_folder(exported, "me/student") == f"{address}/me/student"
    finally:
        server.shutdown()
        server.server_close()
    there = {str(path.relative_to(exported)): path for path in exported.rglob("*") if path.is_file()}
    assert files == {name: path.read_bytes() for name, path in there.items()} and "README.md" in files
