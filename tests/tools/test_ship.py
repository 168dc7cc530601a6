"""What `tools.pocket.ship` puts into the package."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from swd_video.models.loading import ASSETS, DECODER_FILE_NAME
from tools.pocket.ship import STUDENT, ship_student


def test_a_student_and_the_decoder_that_it_carries_are_shipped_in_half_precision(tmp_path: Path) -> None:
    source = tmp_path / "student"
    shutil.copytree(ASSETS / STUDENT, source)
    files = sorted(
        path.relative_to(source) for path in source.rglob("*.safetensors") if "scheduler" not in str(path)
    )
    assert Path(DECODER_FILE_NAME) in files and len(files) == 2
    for file in files:  # as a run writes them
        wide = {name: weight.float() for name, weight in load_file(source / file).items()}
        with safe_open(source / file, framework="pt") as opened:
            metadata = opened.metadata()
        save_file(wide, source / file, metadata)
    ship_student(source, tmp_path / "assets")
    for file in files:
        shipped, before = (load_file(folder / STUDENT / file) for folder in (tmp_path / "assets", ASSETS))
        assert shipped.keys() == before.keys() and {weight.dtype for weight in shipped.values()} == {
            torch.float16
        }
        assert all(torch.equal(shipped[name], before[name]) for name in before)
