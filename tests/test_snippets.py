"""Every piece of Python in the documents and in model cards runs as it is written, in a process of its own."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import WanTransformer3DModel

from swd_video.core.schedule import ScaleSchedule
from swd_video.models.lora import add_lora, lora_state_dict
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.export import export_student
from swd_video.student.student import Student, load_student

from .forked import ROOT, run_forked

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

# What a snippet names, and the small thing of its kind that stands for it here, beside the folder where it runs.
STAND_INS = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "../base",
    "Lightricks/LTX-Video": "../base",
    "path/to/this/folder": ".",
    "out/ltx/student": "../full",
    "out/adapted/teacher": "../lora",
    "configs/scripts/demo.yaml": "../script.yaml",
    "configs/pocket/swd.yaml": "../swd.yaml",
    '"train.steps": 20': '"train.steps": 1',
    'device="cuda"': 'device="cpu"',
    "LatentSize(4, 8, 12)": "LatentSize(2, 2, 2)",
    "LatentSize(7, 16, 24)": "LatentSize(3, 4, 4)",
}
SCRIPT = "model: ../full\nshots:\n  - id: cat\n    prompt: a cat\n"


def python_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(
    tiny_wan_folder: Path,
    tiny_schedule: ScaleSchedule,
    manifest: Path,
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A base model, two students of it, their exports, a config to distil another, and a folder to run in."""
    place = tmp_path_factory.mktemp("snippets")
    (place / "base").symlink_to(tiny_wan_folder)
    (place / "script.yaml").write_text(SCRIPT)
    config = {
        "model": "../base",
        "data": {"manifest": str(manifest), "cache": str(cache)},
        "schedule": tiny_schedule.as_dict(),
        "train": {"kind": "lora", "rank": 2, "steps": 1, "batch_size": 1},
    }
    (place / "swd.yaml").write_text(yaml.safe_dump(config))
    (place / "run" / "out").mkdir(parents=True)
    torch.save(torch.zeros(1, 4, 3, 8, 8), place / "run" / "test_latents_wan.pth")
    transformer = WanTransformer3DModel.from_pretrained(tiny_wan_folder, subfolder="transformer")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
        made = Student(str(place / "base"), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
        made.save(place / "full", transformer)
        add_lora(transformer, 4, ["to_q", "ffn.net.0.proj"])
        for name, weight in transformer.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    additions = lora_state_dict(transformer)
    made = Student(str(place / "base"), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(place / "lora", additions)
    for student, form in (("lora", "lora"), ("full", "merged")):
        export_student(Student.load(place / student), place / f"{student}-export", form=form)
    return place


def run(code: str, folder: Path, then: str = "") -> None:
    for name, stand_in in STAND_INS.items():
        code = code.replace(name, stand_in)
    done = run_forked(code + then, folder=folder)
    assert done.returncode == 0, done.stderr


SNIPPETS = [
    pytest.param(code, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    if path.name != "export.md"
    for number, code in enumerate(python_of(path.read_text(encoding="utf-8")))
    if not code.startswith("# my_")  # modules, which test_extending.py puts to use
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_documented_code_runs(code: str, place: Path) -> None:
    run(code, place / "run")


@pytest.mark.parametrize("student", ["lora", "full"])
def test_code_for_exports_makes_the_student_s_clip_bit_for_bit(student: str, place: Path) -> None:
    pipe = load_student(place / student, dtype=torch.bfloat16)
    expected = pipe("a cat in the grass", generator=torch.Generator().manual_seed(7)).frames[0]
    folder = place / f"{student}-export"
    own, stock = python_of((folder / "README.md").read_text(encoding="utf-8"))
    documented = python_of((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))[student == "full"]
    # The card names this base model where the document names a large one; beside that it is the same code.
    assert [stock.strip()] == [documented.replace("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "../base").strip()]
    for code in (own, documented):
        run(code, folder, then="\nimport numpy\nnumpy.save('clip.npy', video)\n")
        assert np.array_equal(np.load(folder / "clip.npy"), expected)
        (folder / "clip.npy").unlink()


def test_there_is_code_to_run() -> None:
    assert {parameter.id for parameter in SNIPPETS} >= {
        "adapters-0",
        "adapters-1",
        "distill-0",
        "extending-0",
        "spectrum-0",
    }
    assert len(python_of((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))) == 2
