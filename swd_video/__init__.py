"""Scale-wise distillation of video diffusion models, in space and in time.

`import swd_video` is all that a notebook needs: each name below is imported when it is first asked for, so that the
import itself brings in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swd_video.core.grid import LatentSize, PixelSize
    from swd_video.core.sampling import sample_scalewise
    from swd_video.core.schedule import ScaleSchedule, Stage
    from swd_video.environment import prepare_process
    from swd_video.models.base import VideoModel
    from swd_video.models.loading import load_teacher
    from swd_video.models.sections import LoadOptions
    from swd_video.schedulers import ScaleWiseFlowMatchScheduler
    from swd_video.student.pipeline import ScaleWisePipeline
    from swd_video.student.student import Student, load_student
    from swd_video.studio.render import render
    from swd_video.studio.script import Script, load_script
    from swd_video.training.build import adapt, distill
    from swd_video.training.config import DistillConfig, load_config

__version__ = "0.1.0"

__all__ = [
    "DistillConfig",
    "LatentSize",
    "LoadOptions",
    "PixelSize",
    "ScaleSchedule",
    "ScaleWiseFlowMatchScheduler",
    "ScaleWisePipeline",
    "Script",
    "Stage",
    "Student",
    "VideoModel",
    "__version__",
    "adapt",
    "distill",
    "load_config",
    "load_script",
    "load_student",
    "load_teacher",
    "prepare_process",
    "render",
    "sample_scalewise",
]

_HOMES = {
    "environment": ("prepare_process",),
    "core.grid": ("LatentSize", "PixelSize"),
    "core.sampling": ("sample_scalewise",),
    "core.schedule": ("ScaleSchedule", "Stage"),
    "models.base": ("VideoModel",),
    "models.loading": ("load_teacher",),
    "models.sections": ("LoadOptions",),
    "schedulers": ("ScaleWiseFlowMatchScheduler",),
    "student.pipeline": ("ScaleWisePipeline",),
    "student.student": ("Student", "load_student"),
    "studio.render": ("render",),
    "studio.script": ("Script", "load_script"),
    "training.build": ("adapt", "distill"),
    "training.config": ("DistillConfig", "load_config"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"swd_video.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'swd_video' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
