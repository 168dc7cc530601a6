"""A tiny student on disk for the commands to render with."""

from pathlib import Path

import pytest
from diffusers import WanPipeline

from swd_video.core.schedule import ScaleSchedule
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student


@pytest.fixture(scope="session")
def student_folder(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Do not write into it."""
    folder = tmp_path_factory.mktemp("students") / "student"
    transformer = WanPipeline.from_pretrained(tiny_wan_folder).transformer
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(folder, transformer)
    return folder
