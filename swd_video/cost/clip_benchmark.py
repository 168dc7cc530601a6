"""What a clip costs from text to pixels: a student by part, beside its teacher and full steps, all in one process."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor

from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.cost.process_memory import highest_bytes
from swd_video.cost.speed import Sampler, Timing, machine_name, time_interleaved
from swd_video.models.base import VideoModel
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions, load_teacher
from swd_video.models.teacher_sampling import sample_teacher
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import Student

PROMPT = "a paper boat drifts down a narrow stream"
"""Any other costs the same, as the text encoder reads its padding too."""

WAYS = {
    "student": ("text", "stages"),
    "full_steps": ("text", "full_steps"),
    "teacher": ("teacher",),
}
"""Parts before decoding of every way to make a clip; the teacher reads its prompts, with and without text, itself."""


def measure_clips(
    student: Student,
    *,
    teacher: str | None = None,
    batch_size: int = 1,
    rounds: int = 5,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: LoadOptions = DEFAULT_OPTIONS,
    on_run: Callable[[str, Timing], None] | None = None,
) -> dict[str, Any]:
    """Time a student's clips, its teacher's, and those of as many steps of full size.

    Each part is timed for itself, and the parts take turns. All clips are of one size, so decoding is timed once for
    all of them. On CUDA, `peak_gib` is what tensors took while the student made its clips, elsewhere what the process
    had held by then.

    The teacher is by default the base model that the student's folder names. Seconds are divided by the clips at once.

    Raises:
        ValueError: if the student or its teacher cannot be loaded, or no teacher is known.
    """
    if teacher is None and student.kind == "pipeline":
        raise ValueError(
            f"--teacher: not given, and {student.base_model} is a whole pipeline, which does not say whose student it "
            "is; name its teacher."
        )
    pipe = student.pipeline(device=device, dtype=dtype, options=options)
    pipe.set_progress_bar_config(disable=True)
    device = torch.device(device)
    peak_gib = _peak_gib(pipe, batch_size, device)  # before the teacher is there
    taught = _load_teacher(student, teacher, device, dtype, options)
    runs = _runs(pipe, taught, batch_size)
    samplers = {name: Sampler(run) for name, run in runs.items()}
    with torch.no_grad():
        timings = time_interleaved(samplers, rounds=rounds, warmup=0, on_run=on_run)
    seconds = {name: [timing.total / batch_size for timing in timings[name]] for name in runs}
    return summarise(seconds) | {
        "peak_gib": peak_gib,
        "size": str(pipe.model.shown_size(pipe.scheduler.schedule.target)),
        "stages": len(pipe.scheduler.schedule),
        "teacher_steps": default_steps(taught),
        "teacher_guidance_scale": taught.spec.guidance_scale,
        "batch_size": batch_size,
        "rounds": rounds,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": machine_name(device),
    }


def _peak_gib(pipe: ScaleWisePipeline, batch_size: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    pipe([PROMPT] * batch_size, generator=_generator(), output_type="pt")
    return highest_bytes(device) / 2**30


def _runs(pipe: ScaleWisePipeline, taught: VideoModel, batch_size: int) -> dict[str, Callable[[], object]]:
    """Every part of `WAYS`, and decoding; networks are warm afterwards, the teacher by one of its many steps."""
    prompts, schedule = [PROMPT] * batch_size, pipe.scheduler.schedule
    full = ScaleWisePipeline(pipe.model, ScaleWiseFlowMatchScheduler.from_schedule(at_full_size(schedule)))
    embeds = pipe.model.encode_prompt(prompts)
    latents = _latents(full, embeds)

    def teach(steps: int) -> Tensor:
        return sample_teacher(taught, prompts, schedule.target, steps=steps, generator=_generator())

    teach(1)
    _through_vae(pipe, latents)
    runs: dict[str, Callable[[], object]] = {
        "text": lambda: pipe.model.encode_prompt(prompts),
        "stages": lambda: _latents(pipe, embeds),
        "vae": lambda: _through_vae(pipe, latents),
        "teacher": lambda: teach(default_steps(taught)),
        "full_steps": lambda: _latents(full, embeds),
    }
    if pipe.model.decoder is not None:
        runs["decoder"] = lambda: pipe.decode_latents(latents, "pt")
    return runs


def summarise(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Ways to make a clip, from the seconds that each part took in every round: medians, and lowest and highest round.

    Args:
        seconds: of `WAYS`' parts, "vae", and "decoder" where the student carries one.
    """
    decoders = [name for name in ("decoder", "vae") if name in seconds]

    def sums(way: str, decoder: str) -> list[float]:
        return [sum(parts) for parts in zip(*(seconds[part] for part in (*WAYS[way], decoder)), strict=True)]

    student = sums("student", decoders[0])
    rows = []
    for way, decoder in product(WAYS, decoders):
        whole = sums(way, decoder)
        ratios = [one / of_student for one, of_student in zip(whole, student, strict=True)]
        rows.append(
            {
                "way": way,
                "through": decoder,
                "decode": median(seconds[decoder]),
                "all": median(whole),
                "all_spread": [min(whole), max(whole)],
                "over_student": median(ratios),
                "over_student_spread": [min(ratios), max(ratios)],
            }
        )
    over = {(row["way"], row["through"]): row["over_student"] for row in rows}
    return {
        "seconds_a_clip": {
            "text": median(seconds["text"]),
            "stages": median(seconds["stages"]),
            "decode": median(seconds[decoders[0]]),
            "all": median(student),
        },
        "teacher_over_student": over["teacher", "vae"],
        "full_steps_over_student": over["full_steps", "vae"],
        "full_steps_same_decoder_over_student": over["full_steps", decoders[0]],
        "rows": rows,
    }


def at_full_size(schedule: ScaleSchedule) -> ScaleSchedule:
    """The same noise levels, all on the last grid, where each token attends to all."""
    return ScaleSchedule(tuple(Stage(sigma, schedule.target) for sigma in schedule.sigmas))


def default_steps(teacher: VideoModel) -> int:
    """Steps that the teacher's own pipeline takes unless told otherwise."""
    steps: int = inspect.signature(type(teacher.pipe).__call__).parameters["num_inference_steps"].default
    return steps


def _load_teacher(
    student: Student, name: str | None, device: torch.device, dtype: torch.dtype, options: LoadOptions
) -> VideoModel:
    if name is None:
        file = student.file_for_transformer(options.transformer_file)
        adapter = options.adapter or student.adapter
        options = options.model_copy(update={"transformer_file": file, "adapter": adapter})
    return load_teacher(name or student.base_path, device=device, dtype=dtype, options=options)


def _latents(pipe: ScaleWisePipeline, embeds: Tensor) -> Tensor:
    latents: Tensor = pipe(prompt_embeds=embeds, generator=_generator(), output_type="latent").frames
    return latents


def _through_vae(pipe: ScaleWisePipeline, latents: Tensor) -> object:
    carried, pipe.model.decoder = pipe.model.decoder, None
    try:
        return pipe.decode_latents(latents, "pt")
    finally:
        pipe.model.decoder = carried


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
