"""A tiny student on disk for the commands to render with."""

from pathlib import Path

import pytest
from diffusers import WanPipeline

from swd_video.core.schedule import ScaleSchedule
from swd_video.student.loading import save_student


@pytest.fixture(scope="session")
def student_folder(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Do not write into it."""
    folder = tmp_path_factory.mktemp("students") / "student"
    transformer = WanPipeline.from_pretrained(tiny_wan_folder).transformer
    save_student(folder, base_model=tiny_wan_folder, schedule=tiny_schedule, transformer=transformer)
    return folder
