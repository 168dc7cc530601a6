"""Where a student loses motion: each stage is given the teacher's own clip as what the stage before it made.

    python -m tools.pocket.handover pocket-wan-swd

"From stage 4" are clips whose last stage alone is the student's: what it starts from is the teacher's clip of the same
prompt, shrunk in pixels to the grid of stage 3 and encoded, as training clips are. If these move no more than the
student's own clips ("from stage 1"), the last stage loses the motion, whatever the stages before it do. Below each
share stand those from frame to frame: they dip where one latent frame of a stage becomes two of the next.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from torch import Tensor

from swd_video.core.flow import add_noise, x0_from_velocity
from swd_video.core.interval import Estimate, bootstrap_ratio
from swd_video.core.resize import resize_pixels
from swd_video.core.sampling import draw_noise
from swd_video.evaluation.clip_store import make_clips
from swd_video.evaluation.config import TeacherRowConfig
from swd_video.evaluation.metrics.motion import flow_lengths
from swd_video.evaluation.rows import teacher_row, to_frames
from swd_video.models.loading import load_teacher
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import load_student
from tools.pocket.pictures import to_pixels
from tools.pocket.rows import evaluation_specs


@dataclass(frozen=True)
class HandoverOptions:
    """What to compare."""

    student: Annotated[str, tyro.conf.Positional]
    """Shipped name or folder."""
    teacher: str = "pocket-wan"
    steps: int = 50
    """Of the teacher."""
    guidance: float = 3.0
    """Of the teacher."""
    count: int = 128
    """Clips; two of each held-out prompt."""
    seed: int = 1
    batch_size: int = 16
    out: Path = Path("out/study/clips")
    """Where the teacher's clips are kept; those of the study serve again."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object on stdout: for each stage, the optical flow as a share of the teacher's."""


@dataclass(frozen=True)
class FlowShare:
    """Optical flow as a share of the teacher's.

    Attributes:
        clips: over whole clips.
        frame_to_frame: from each frame to the next, the mean over all clips.
    """

    clips: Estimate
    frame_to_frame: tuple[float, ...]


def shares_by_stage(options: HandoverOptions) -> dict[int, FlowShare]:
    """Optical flow of clips that are the student's from a stage on (1 is the first), as shares of the teacher's.

    Raises:
        ValueError: If a model cannot be loaded, or the two make clips of different sizes.
    """
    teacher, student = load_teacher(options.teacher), load_student(options.student)
    schedule = student.scheduler.schedule
    size = student.compression.pixel_size(schedule.target)
    if teacher.spec.training_size != size:
        raise ValueError(
            f"{options.student}: its clips are {size}, the teacher's {teacher.spec.training_size}; name its teacher."
        )
    specs = evaluation_specs("choose", options.seed, options.count, samples_per_prompt=2)
    section = TeacherRowConfig(
        key=f"teacher-{options.steps}",
        title="teacher",
        model=options.teacher,
        steps=options.steps,
        guidance_scale=options.guidance,
    )
    row = teacher_row(section, teacher, size)
    clips = make_clips(row, specs, options.out, seed=options.seed, batch_size=options.batch_size)
    theirs: list[np.ndarray] = []
    ours: dict[int, list[np.ndarray]] = {stage: [] for stage in range(len(schedule))}
    for number, frames in enumerate(clips.batches()):
        prompts = clips.captions[len(theirs) :][: len(frames)]
        theirs += map(flow_lengths, frames)
        for stage, flows in ours.items():
            generator = torch.Generator().manual_seed(options.seed + number)
            flows += map(flow_lengths, finish(student, stage, to_pixels(frames), prompts, generator))
    groups = np.unique(clips.captions, return_inverse=True)[1]
    return {stage + 1: _share(np.stack(flows), np.stack(theirs), groups) for stage, flows in ours.items()}


def _share(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> FlowShare:
    """Of flow lengths (clips, frames - 1)."""
    clips = bootstrap_ratio(ours.mean(axis=1), theirs.mean(axis=1), groups)
    return FlowShare(clips, tuple((ours.mean(axis=0) / theirs.mean(axis=0)).tolist()))


@torch.no_grad()
def finish(
    student: ScaleWisePipeline,
    first: int,
    pixels: Float[Tensor, "batch 3 frames height width"],
    prompts: Sequence[str],
    generator: torch.Generator,
) -> UInt8[np.ndarray, "batch frames height width 3"]:
    """Stages of a student from `first` (0 is the first) on, given clips in place of what the stages before it make."""
    model, schedule = student.model, student.scheduler.schedule
    prompt_embeds = model.encode_prompt(list(prompts))
    if first:
        grid = schedule[first - 1].grid
        x0 = model.encode_video(resize_pixels(pixels, model.spec.compression.pixel_size(grid)))
    else:
        x0 = torch.zeros(len(prompts), model.spec.latent_channels, *schedule[0].grid.as_tuple())
    for stage in schedule.stages[first:]:
        upsampled = student.scheduler.upsample(x0, stage.grid)
        noisy_latents = add_noise(upsampled, draw_noise(upsampled.shape, generator=generator), stage.sigma)
        velocity = model.predict_velocity(
            noisy_latents, stage.sigma, prompt_embeds, attention=stage.attention
        )
        x0 = x0_from_velocity(noisy_latents, velocity, stage.sigma)
    return to_frames(model.decode(x0))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(HandoverOptions, args=argv, description=__doc__)
    try:
        shares = shares_by_stage(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json_output:
        plain = {
            stage: {"clips": share.clips.as_dict(), "frame_to_frame": share.frame_to_frame}
            for stage, share in shares.items()
        }
        print(json.dumps(plain))
        return 0
    for stage, share in shares.items():
        whole = share.clips
        print(
            f"from stage {stage}: {whole.value:.2f} [{whole.low:.2f}, {whole.high:.2f}] of the teacher's flow"
        )
        print("  frame to frame:", *(f"{value:.2f}" for value in share.frame_to_frame))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
