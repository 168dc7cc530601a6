"""From an evaluation's config to its rows, judges and prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swd_video.core.grid import PixelSize
from swd_video.data.manifest import Clip
from swd_video.data.prompts import choose_prompts
from swd_video.evaluation.adherence import AttributeJudge
from swd_video.evaluation.clip_encoders import FrameFeatures, load_encoder, load_frame_encoder
from swd_video.evaluation.config import (
    EvaluateConfig,
    MetricsConfig,
    RealClips,
    RealRowConfig,
    StudentRowConfig,
    TeacherRowConfig,
)
from swd_video.evaluation.evaluate import CostTask, Evaluation, RowTask
from swd_video.evaluation.overlap import JudgingNetwork, check_overlap
from swd_video.evaluation.rows import (
    Row,
    find_clips,
    prompt_requests,
    real_row,
    student_row,
    teacher_row,
    through_vae,
    weights_digest,
)
from swd_video.evaluation.scores import Judges
from swd_video.models.base import VideoModel
from swd_video.models.loading import LoadOptions, load_model, resolve_model_path
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import load_student

_SHARED_PARTS = ("text_encoder", "vae")


class ModelPool:
    """Loads each model once, and keeps one copy of the text encoders and VAEs that models share.

    Args:
        dtype: precision of everything.
        device: where to run.
    """

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self._dtype = dtype
        self._device = device
        self._teachers: dict[tuple[str, float | None], VideoModel] = {}
        self._students: dict[str, ScaleWisePipeline] = {}
        self._parts: dict[tuple[type, str], nn.Module] = {}

    def teacher(self, name: str, embedded_guidance: float | None = None) -> VideoModel:
        """A model behind the interface that all families share.

        Raises:
            ValueError: There is no such model, or it is told no guidance.
        """
        if (name, embedded_guidance) not in self._teachers:
            options = LoadOptions(embedded_guidance=embedded_guidance)
            model: Any = load_model(name, dtype=self._dtype, device=self._device, options=options)
            for part in _SHARED_PARTS:
                self._known(getattr(model.pipe, part))
            self._teachers[name, embedded_guidance] = model
        return self._teachers[name, embedded_guidance]

    def student(self, name: str) -> ScaleWisePipeline:
        """A student's pipeline.

        Raises:
            ValueError: There is no such student.
        """
        if name not in self._students:
            pipe = load_student(name, dtype=self._dtype, device=self._device)
            pipe.set_progress_bar_config(disable=True)
            for part in _SHARED_PARTS:
                setattr(pipe.model.pipe, part, self._known(getattr(pipe.model.pipe, part)))
            self._students[name] = pipe
        return self._students[name]

    def _known(self, module: nn.Module) -> nn.Module:
        return self._parts.setdefault((type(module), weights_digest(module)), module)


def build_evaluation(config: EvaluateConfig, title: str, device: str) -> Evaluation:
    """Load everything that an evaluation needs.

    Args:
        config: all of it.
        title: what the results are called.
        device: where to run.

    Raises:
        ValueError: Something that the config names is missing or cannot work, in one line.
    """
    prompts = choose_prompts(config.prompts, config.prompts_file, config.num_prompts)
    unrecorded = _check_students(config)
    sources = _find_sources(config)
    judges = _build_judges(config.metrics, device)
    pool = ModelPool(getattr(torch, config.dtype), device)
    size, fps = _size_and_fps(config, pool)
    requests = prompt_requests(prompts, config.samples_per_prompt)
    tasks = []
    for row in config.rows:
        if isinstance(row, RealRowConfig):
            tasks.append(RowTask(_real_row(row, sources[row.key], size, fps, pool), sources[row.key], True))
        else:
            tasks.append(RowTask(_sampled_row(row, size, pool), requests))
    real = None
    if config.metrics.real_clips is not None:
        clips = sources[""]
        real = RowTask(real_row("real-clips", "real clips", size, fps, clips), clips, True)
    return Evaluation(
        tasks=tasks,
        reference=config.reference,
        real=real,
        judges=judges,
        seed=config.seed,
        batch_size=config.batch_size,
        cost=None if config.cost is None else CostTask(config.cost.rounds, config.cost.batch_size),
        margins=config.margins.model_dump(),
        pairs=[
            (row.key, theirs)
            for theirs in config.against or (config.reference,)
            for row in config.rows
            if row.key != theirs
        ],
        about={
            "title": f"Evaluation: {title}",
            "num_prompts": len(prompts),
            "samples_per_prompt": config.samples_per_prompt,
            "size": str(size),
            "fps": fps,
            "seed": config.seed,
            "dtype": config.dtype,
            "judge": config.metrics.judge,
            "models": {row.key: row.model for row in config.rows if not isinstance(row, RealRowConfig)},
            "unrecorded": unrecorded,
        },
    )


def _check_students(config: EvaluateConfig) -> list[str]:
    """Refuse rows whose student was trained by a judging network; returns the rows that do not say."""
    metrics = config.metrics
    networks = [
        JudgingNetwork("metrics.encoder", metrics.encoder),
        JudgingNetwork("metrics.frame_encoder", metrics.frame_encoder),
    ]
    if metrics.judge is not None:
        networks.append(JudgingNetwork("metrics.judge", metrics.judge))
    students = [row for row in config.rows if isinstance(row, StudentRowConfig)]
    return [row.key for row in students if not check_overlap(resolve_model_path(row.model), networks)]


def _find_sources(config: EvaluateConfig) -> dict[str, list[Clip]]:
    """Real clips by the key of their row; under "" those that distances are measured to."""
    sources = {row.key: _clips(row.clips) for row in config.rows if isinstance(row, RealRowConfig)}
    if config.metrics.real_clips is None:
        return sources
    compared = _clips(config.metrics.real_clips)
    known = {_place(clip) for clip in compared}
    for key, clips in sources.items():
        shared = sum(_place(clip) in known for clip in clips)
        if shared:
            raise ValueError(
                f"metrics.real_clips: {shared} of the {len(clips)} clips of row {key!r} are among them, which makes "
                "their distance too small; set first and count so that the sets share none."
            )
    return {**sources, "": compared}


def _clips(source: RealClips) -> list[Clip]:
    return find_clips(source.manifest, source.folder, source.first, source.count)


def _place(clip: Clip) -> tuple[Path, float, float | None]:
    return clip.path.resolve(), clip.start, clip.end


def _build_judges(metrics: MetricsConfig, device: str) -> Judges:
    encoder = load_encoder(metrics.encoder, device=device)
    same = metrics.frame_encoder == metrics.encoder and isinstance(encoder, FrameFeatures)
    frame_encoder: Any = encoder if same else load_frame_encoder(metrics.frame_encoder, device=device)
    judge = None
    if metrics.judge is not None:
        judge = AttributeJudge.load(Path(metrics.judge), device=device)
    return Judges(encoder, frame_encoder, judge, metrics.optical_flow)


def _size_and_fps(config: EvaluateConfig, pool: ModelPool) -> tuple[PixelSize, float]:
    sizes: list[PixelSize] = [] if config.size is None else [PixelSize.parse(config.size)]
    rates: dict[str, float] = {}
    for row in config.rows:
        if isinstance(row, StudentRowConfig):
            pipe = pool.student(row.model)
            sizes.append(pipe.compression.pixel_size(pipe.scheduler.schedule.target))
            rates[row.key] = pipe.fps
        elif isinstance(row, TeacherRowConfig):
            spec = pool.teacher(row.model, row.embedded_guidance).spec
            sizes.extend([] if spec.training_size is None else [spec.training_size])
            rates[row.key] = spec.fps
    if not rates:
        raise ValueError("rows: all are real clips, expected a teacher or a student too.")
    if len(set(rates.values())) > 1:
        rows = ", ".join(f"{key} {fps:g}" for key, fps in rates.items())
        raise ValueError(f"rows: clips of different frame rates cannot be compared: {rows} frames a second.")
    if not sizes:
        raise ValueError("size: not set, and no model says what clips it makes; give FRAMESxHEIGHTxWIDTH.")
    return sizes[0], next(iter(rates.values()))


def _sampled_row(row: TeacherRowConfig | StudentRowConfig, size: PixelSize, pool: ModelPool) -> Row:
    if isinstance(row, TeacherRowConfig):
        teacher = pool.teacher(row.model, row.embedded_guidance)
        guidance = teacher.spec.guidance_scale if row.guidance_scale is None else row.guidance_scale
        return teacher_row(
            row.key,
            row.title or f"teacher, {row.steps} steps, guidance {guidance:g}",
            teacher,
            steps=row.steps,
            guidance_scale=guidance,
            guidance_scale_2=row.guidance_scale_2,
            size=size,
            negative_prompt=row.negative_prompt,
            shift=row.shift,
        )
    pipe = pool.student(row.model)
    stages = " → ".join(str(grid) for grid in pipe.scheduler.schedule.grids)
    return student_row(row.key, row.title or f"student {row.key} ({stages})", pipe, size)


def _real_row(row: RealRowConfig, clips: Sequence[Clip], size: PixelSize, fps: float, pool: ModelPool) -> Row:
    model = row.through_vae_of
    plain = real_row(row.key, row.title or "real clips (the floor)", size, fps, clips)
    if model is None:
        return plain
    return through_vae(
        plain, row.key, row.title or f"real clips through the VAE of {model}", pool.teacher(model)
    )
