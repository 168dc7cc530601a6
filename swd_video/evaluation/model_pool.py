"""Models of an evaluation, each loaded once."""

from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.evaluation.config import EvaluateConfig, StudentRowConfig, TeacherRowConfig
from swd_video.evaluation.rows import Row, student_row, teacher_row
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import weights_digest
from swd_video.models.loading import LoadOptions, load_teacher
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import load_student

Decoder: TypeAlias = Literal["vae"] | Path | None
_SHARED_PARTS = ("text_encoder", "vae")


class ModelPool:
    """Loads each model once, and keeps one copy of the text encoders and VAEs that models share."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self._dtype = dtype
        self._device = device
        self._teachers: dict[tuple[str, LoadOptions], VideoModel] = {}
        self._students: dict[tuple[str, LoadOptions], ScaleWisePipeline] = {}
        self._parts: dict[tuple[type, str], nn.Module] = {}

    def teacher(
        self, name: str, embedded_guidance: float | None = None, decoder: Decoder = None
    ) -> VideoModel:
        """A model behind the interface that all families share.

        Raises:
            ValueError: There is no such model, it is told no guidance, or the decoder is not for it.
        """
        options = LoadOptions(embedded_guidance=embedded_guidance, decoder=decoder)
        if (name, options) not in self._teachers:
            model: Any = load_teacher(name, dtype=self._dtype, device=self._device, options=options)
            grid = LatentSize(1 + model.spec.compression.repeated_frames, 1, 1)
            if (shown := model.shown_size(grid)) != (own := model.spec.compression.pixel_size(grid)):
                raise ValueError(
                    f"decoder: {decoder} shows {shown.height} pixels along each side of a latent, expected the "
                    f"{own.height} of the VAE: teachers and real clips are compared at that size; give another decoder."
                )
            for part in _SHARED_PARTS:
                self._known(getattr(model.pipe, part))
            self._teachers[name, options] = model
        return self._teachers[name, options]

    def student(self, name: str, decoder: Decoder = None) -> ScaleWisePipeline:
        """A student's pipeline.

        Raises:
            ValueError: There is no such student, or the decoder is not for it.
        """
        options = LoadOptions(decoder=decoder)
        if (name, options) not in self._students:
            pipe = load_student(name, dtype=self._dtype, device=self._device, options=options)
            pipe.set_progress_bar_config(disable=True)
            for part in _SHARED_PARTS:
                setattr(pipe.model.pipe, part, self._known(getattr(pipe.model.pipe, part)))
            self._students[name, options] = pipe
        return self._students[name, options]

    def row(self, section: TeacherRowConfig | StudentRowConfig, size: PixelSize | None = None) -> Row:
        """A row that a model makes, by default of the size that it makes by itself.

        Raises:
            ValueError: There is no such model, or it cannot make clips of this size.
        """
        size = size or self.own_size(section)
        if size is None:
            raise ValueError(
                f"--size: {section.model} does not say what clips it makes; give FRAMESxHEIGHTxWIDTH."
            )
        if isinstance(section, TeacherRowConfig):
            teacher = self.teacher(section.model, section.embedded_guidance, section.decoder)
            return teacher_row(section, teacher, size)
        return student_row(section, self.student(section.model, section.decoder), size)

    def own_size(self, section: TeacherRowConfig | StudentRowConfig) -> PixelSize | None:
        """The size of clips that a model makes by itself, if it says."""
        if isinstance(section, TeacherRowConfig):
            return self.teacher(section.model, section.embedded_guidance, section.decoder).spec.training_size
        pipe = self.student(section.model, section.decoder)
        return pipe.model.shown_size(pipe.scheduler.schedule.target)

    def size_and_fps(self, config: EvaluateConfig) -> tuple[PixelSize, float]:
        """Size and frame rate of all clips of an evaluation.

        Raises:
            ValueError: No model makes clips, they make them at different rates, or none says of what size.
        """
        sizes: list[PixelSize] = [] if config.size is None else [PixelSize.parse(config.size)]
        rates: dict[str, float] = {}
        for row in config.sampled_rows:
            own = self.own_size(row)
            sizes.extend([] if own is None else [own])
            if isinstance(row, TeacherRowConfig):
                rates[row.key] = self.teacher(row.model, row.embedded_guidance, row.decoder).spec.fps
            else:
                rates[row.key] = self.student(row.model, row.decoder).fps
        if not rates:
            raise ValueError("rows: all are real clips, expected a teacher or a student too.")
        if len(set(rates.values())) > 1:
            rows = ", ".join(f"{key} {fps:g}" for key, fps in rates.items())
            raise ValueError(
                f"rows: clips of different frame rates cannot be compared: {rows} frames a second."
            )
        if not sizes:
            raise ValueError(
                "size: not set, and no model says what clips it makes; give FRAMESxHEIGHTxWIDTH."
            )
        return sizes[0], next(iter(rates.values()))

    def _known(self, module: nn.Module) -> nn.Module:
        return self._parts.setdefault((type(module), weights_digest(module)), module)
