"""`swd-video vbench MODEL --prompts FILES --out DIR`: the clips that VBench and VBench-2.0 judge."""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from swd_video.cli.arguments import JsonFlag, read_arguments
from swd_video.models.devices import Device

if TYPE_CHECKING:
    from swd_video.evaluation.rows import Row

_DESCRIPTION = """Make the clips that VBench or VBench-2.0 judges, from the prompt lists of their repository.

Neither is needed here: point it at DIR/videos afterwards, where clips are named and sorted as it expects. Running the
same command again after it was stopped makes only the clips that are missing.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video vbench`."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A student, which samples in its own stages, or a teacher."""
    prompts: tuple[Path, ...]
    """Text files with a prompt on each line, one for each dimension and named like it."""
    out: Path
    """Folder: videos/, and vbench.json with the seed of every clip."""
    suite: Literal["vbench", "vbench2"] = "vbench"
    """vbench: all clips in one folder, 5 of a prompt, 25 for temporal_flickering. vbench2: a folder for each dimension,
    3 of a prompt, 20 for Diversity."""
    model_prompts: tuple[Path, ...] = ()
    """As many files with as many lines: longer prompts that the model is given, while clips keep their names."""
    samples: int | None = None
    """Clips of each prompt, instead of the suite's numbers."""
    steps: int = 50
    """Sampling steps of a teacher."""
    guidance_scale: float | None = None
    """Guidance of a teacher; 1 is off, default what its pipeline does."""
    embedded_guidance: float | None = None
    """The guidance scale that a teacher distilled for guidance is told (HunyuanVideo); default its pipeline's."""
    negative_prompt: str = ""
    """What a teacher's guidance leads away from."""
    size: str | None = None
    """Size of a teacher's clips, FRAMESxHEIGHTxWIDTH; default what its folder says."""
    seed: int = 0
    """The seed of a clip follows from this, its prompt and its number."""
    batch_size: int = 1
    """Clips made at once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model."""
    device: Device = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    shard: str | None = None
    """I/N: make the I-th of N parts, so that processes share the work; default all."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: videos, clips, made, missing."""


def run(argv: list[str]) -> int:
    """Make the clips; returns 0."""
    arguments = read_arguments(Arguments, "vbench", argv, _DESCRIPTION)
    from swd_video.data.share import Share
    from swd_video.evaluation.vbench import SUITES, VIDEOS_FOLDER, plan_bench, write_bench
    from swd_video.files import check_writable

    suite = SUITES[arguments.suite]
    if arguments.samples is not None:
        if arguments.samples < 1:
            raise ValueError(f"--samples: got {arguments.samples}, expected 1 or more.")
        suite = replace(suite, samples=arguments.samples, more_samples={})
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size: got {arguments.batch_size}, expected 1 or more.")
    if arguments.steps < 1:
        raise ValueError(f"--steps: got {arguments.steps}, expected 1 or more.")
    for flag, scale, least in (
        ("--guidance-scale", arguments.guidance_scale, 1.0),
        ("--embedded-guidance", arguments.embedded_guidance, 0.0),
    ):
        if scale is not None and not least <= scale < math.inf:
            raise ValueError(f"{flag}: got {scale:g}, expected {least:g} or more.")
    share = Share.parse(arguments.shard)
    check_writable(arguments.out)
    clips = plan_bench(suite, arguments.prompts, arguments.model_prompts, seed=arguments.seed)
    row = _row(arguments)
    about = {"suite": arguments.suite, "model": arguments.model, "seed": arguments.seed}
    made = write_bench(arguments.out, clips, row, about, batch_size=arguments.batch_size, share=share)
    videos = arguments.out / VIDEOS_FOLDER
    missing = sum(not (videos / clip.path).is_file() for clip in clips)
    if arguments.json_output:
        print(json.dumps({"videos": str(videos), "clips": len(clips), "made": made, "missing": missing}))
    else:
        print(f"made {made} of {len(clips)} clips, {missing} are missing: {videos}", file=sys.stderr)
    return 0


def _row(arguments: Arguments) -> "Row":
    import torch

    from swd_video.core.grid import PixelSize
    from swd_video.evaluation.config import StudentRowConfig, TeacherRowConfig
    from swd_video.evaluation.model_pool import ModelPool
    from swd_video.models.devices import choose_device
    from swd_video.student.student import is_student

    pool = ModelPool(getattr(torch, arguments.dtype), choose_device(arguments.device))
    if is_student(arguments.model):
        return pool.row(StudentRowConfig(key="student", title=arguments.model, model=arguments.model))
    teacher = TeacherRowConfig(
        key="teacher",
        title=arguments.model,
        model=arguments.model,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        embedded_guidance=arguments.embedded_guidance,
        negative_prompt=arguments.negative_prompt,
    )
    return pool.row(teacher, None if arguments.size is None else PixelSize.parse(arguments.size))
