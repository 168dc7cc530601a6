"""Every key of an evaluation config, with its default, its limits and what it means."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from swd_video.config import Section, or_from_outside
from swd_video.core.grid import PixelSize
from swd_video.data.manifest import Clip, read_manifest
from swd_video.models.sections import TeacherSamplingConfig

_KEY_PATTERN = r"^[a-z0-9][a-z0-9_-]*$"
_VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".webp")

FlowMethod = Literal["dis", "farneback"]


class ClipSource(Section):
    """Where clips come from that no model made; one from outside of the package derives from this class."""

    @abstractmethod
    def find(self) -> Sequence[Any]:
        """The clips, each with a `caption`; `str` of one says all that it depends on, its file's content apart.

        Raises:
            ValueError: If there are not so many.
        """

    @abstractmethod
    def frames(self, clip: Any, size: PixelSize, fps: float) -> np.ndarray:
        """One of them, uint8 (frames, height, width, 3)."""

    def content(self, clips: Sequence[Any]) -> Mapping[str, Any]:
        """What else their pixels depend on."""
        return {}

    def place(self, clip: Any) -> Hashable:
        """The same for two clips that are one."""
        return clip


class RealClips(ClipSource):
    """Clips that were filmed or drawn, from a manifest or from a folder of videos."""

    manifest: str | None = None
    """JSON lines of path, caption, start and end, as `swd-video encode` reads them."""
    folder: str | None = None
    """Folder of videos instead; a file's name without its ending is its caption."""
    first: int = Field(default=0, ge=0)
    """How many clips to leave out at the start, so that two sets from one source share none."""
    count: int | None = Field(default=None, ge=2)
    """How many to take; null takes all."""

    @model_validator(mode="after")
    def _check_source(self) -> "RealClips":
        if (self.manifest is None) == (self.folder is None):
            got = "neither" if self.manifest is None else "both"
            raise ValueError(f"manifest and folder: got {got}, expected exactly one of them")
        return self

    def find(self) -> Sequence[Clip]:
        """Those of the manifest, or all videos of the folder, whose names are then their captions."""
        source = self.manifest or self.folder or ""
        clips = read_manifest(source) if self.manifest else _videos_in(Path(source))
        chosen = clips[self.first :] if self.count is None else clips[self.first : self.first + self.count]
        least = self.count or 2
        if len(chosen) < least:
            raise ValueError(
                f"{source}: holds {len(clips)} clips, expected {self.first + least} or more (first {self.first}, count "
                f"{self.count or 'all'}); lower them or add clips."
            )
        return chosen

    def frames(self, clip: Clip, size: PixelSize, fps: float) -> np.ndarray:
        """Cropped and shrunk, as for training."""
        from swd_video.core.pixels import frames_from_pixels
        from swd_video.data.clips import clip_pixels

        return frames_from_pixels(clip_pixels(clip, size, fps))[0].permute(1, 2, 3, 0).numpy()

    def content(self, clips: Sequence[Clip]) -> Mapping[str, Any]:
        """Sizes and times of the files tell when one has changed."""
        stats = [clip.path.stat() if clip.path.is_file() else None for clip in clips]
        return {"files": [None if found is None else (found.st_size, found.st_mtime_ns) for found in stats]}

    def place(self, clip: Clip) -> Hashable:
        """A stretch of a file."""
        return clip.path.resolve(), clip.start, clip.end


def _videos_in(folder: Path) -> list[Clip]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of videos; check the path.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _VIDEO_SUFFIXES)
    return [Clip(path, path.stem, written_path=path.name) for path in paths]


Clips = Annotated[RealClips, or_from_outside("clips", ClipSource)]


class RowConfig(Section):
    """A row to compare."""

    key: str = Field(pattern=_KEY_PATTERN)
    """Short name of the row: in files, in the JSON and for `reference`."""
    title: str | None = None
    """What tables and the page call it; null makes one up."""


class RealRowConfig(RowConfig):
    """Real clips, as they are or through a model's VAE and back."""

    kind: Literal["real"] = "real"
    clips: Clips
    through_vae_of: str | None = None
    """A model whose VAE encodes and decodes them: the best that a sampler over its latents can do."""
    decoder: Path | None = None
    """A decoder's file, in the place of that VAE's own."""

    @model_validator(mode="after")
    def _check_decoder(self) -> "RealRowConfig":
        if self.decoder is not None and self.through_vae_of is None:
            raise ValueError(
                "decoder: decodes what a VAE encoded; set through_vae_of too, or leave decoder out"
            )
        return self


class TeacherRowConfig(TeacherSamplingConfig, RowConfig):
    """A teacher, sampled in many steps with guidance."""

    kind: Literal["teacher"] = "teacher"
    decoder: Literal["vae"] | Path | None = None
    """What clips are shown through: `vae`, or a decoder's file; null is what a student carries, else the VAE."""


class StudentRowConfig(RowConfig):
    """A student, sampled in its own stages without guidance."""

    kind: Literal["student"] = "student"
    model: str
    """A shipped name, a student's folder or a saved pipeline."""
    decoder: Literal["vae"] | Path | None = None
    """What clips are shown through: `vae`, or a decoder's file; null is what a student carries, else the VAE."""


class MetricsConfig(Section):
    """With what the clips are judged."""

    judge: str | None = None
    """Folder of an attribute judge, which reads what the prompts ask for; null leaves adherence out."""
    encoder: str = "efficientnet"
    """Network of distances and diversity: a video or image encoder of transformers by hub name or folder, or
    `efficientnet`, which is packaged. No network that a row's student was trained with."""
    frame_encoder: str = "efficientnet"
    """Network of subject consistency: an image encoder, chosen likewise."""
    optical_flow: FlowMethod = "dis"
    """How motion is measured."""
    real_clips: Clips | None = None
    """What the distances are measured to, and, if they hold several of each prompt, diversity and spread as well; null
    takes the reference row's clips."""
    others: tuple[str, ...] = ()
    """Metrics from outside of the package, as `module:Class` or by the names of their entry points."""

    @field_validator("others")
    @classmethod
    def _check_others(cls, others: tuple[str, ...]) -> tuple[str, ...]:
        if others:
            from swd_video.evaluation.metrics import all_metrics

            all_metrics(others=others)
        return others


class CostConfig(Section):
    """How seconds and operations are measured: rows take turns in one process."""

    rounds: int = Field(default=5, ge=1)
    """Timed runs of each row."""
    batch_size: int = Field(default=8, ge=1)
    """Clips in one timed run; one alone of a small model would mostly time Python."""


class TargetConfig(Section):
    """What a row must reach; exactly one bound of the four."""

    row: str
    """Key of the row."""
    metric: str
    """Name of a figure of the tables, as evaluation.json has it; `adherence` stands for that of every attribute."""
    share_of: str | None = None
    """Key of another row: `at_least` and `at_most` then bound the figure as a share of that row's."""
    at_least: float | None = None
    """The figure, or its share, must not be less."""
    at_most: float | None = None
    """The figure, or its share, must not be more."""
    no_worse_than: str | None = None
    """Key of another row: the whole interval of the difference must be better than the margin the wrong way."""
    better_than: str | None = None
    """Key of another row: the whole interval of the difference must be better than 0."""

    @model_validator(mode="after")
    def _check_bound(self) -> "TargetConfig":
        names = ("at_least", "at_most", "no_worse_than", "better_than")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'no bound'}, expected one of {', '.join(names)}")
        if self.share_of is not None and given[0] not in names[:2]:
            raise ValueError(f"share_of: goes with at_least or at_most, not with {given[0]}; leave it out")
        return self

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The rows that it names, by key."""
        names = ("row", "share_of", "no_worse_than", "better_than")
        return [(name, key) for name in names if (key := getattr(self, name)) is not None]


class PageConfig(Section):
    """Which clips the page shows."""

    prompts: int = Field(default=6, ge=0)
    """How many prompts, spread over all."""
    samples: int = Field(default=1, ge=1)
    """Clips of each, in every row."""
    max_height_px: int = Field(default=256, ge=16)
    """Higher clips are shrunk, for the page alone."""


class EvaluateConfig(Section):
    """An evaluation: prompts, rows to compare, and what is measured on their clips."""

    prompts: tuple[str, ...] = ()
    """Give these or `prompts_file`."""
    prompts_file: str | None = None
    """A text file of prompts, one a line. Relative paths start at the working directory."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Take only the first so many."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Clips of each prompt; diversity needs two."""
    seed: int = Field(default=0, ge=0, lt=2**43)
    """Clip i of every row starts from the same noise, which follows from this."""
    size: str | None = None
    """Size of the clips as "FRAMESxHEIGHTxWIDTH"; null is that of the first model that says what it makes."""
    rows: tuple[
        Annotated[RealRowConfig | TeacherRowConfig | StudentRowConfig, Field(discriminator="kind")], ...
    ] = Field(min_length=1)
    """What is compared."""
    reference: str
    """Key of the row whose motion and sharpness the others' are shares of."""
    against: tuple[str, ...] = ()
    """Keys of rows that all others are held against, by paired differences; none takes the reference."""
    metrics: MetricsConfig = MetricsConfig()
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, validate_default=True)
    """By metric, differences that do not matter, chosen before anything is measured; "equal" means that one lies
    inside. What is left out is the metric's own. That of `kernel` is a share of the other row's distance."""
    targets: tuple[TargetConfig, ...] = ()
    """What rows must reach."""
    cost: CostConfig | None = CostConfig()
    """Null measures no cost."""
    page: PageConfig = PageConfig()
    batch_size: int = Field(default=8, ge=1)
    """Clips made at once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the models."""

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        if size is not None:
            PixelSize.parse(size)
        return size

    @field_validator("margins")
    @classmethod
    def _fill_margins(cls, margins: dict[str, float], info: Any) -> dict[str, float]:
        from swd_video.evaluation.metrics import default_margins

        known = default_margins(info.data["metrics"].others if "metrics" in info.data else ())
        for name in margins:
            if name not in known:
                raise ValueError(f"margins.{name}: no such margin; known are {', '.join(known)}")
        return known | margins

    @model_validator(mode="after")
    def _check_whole(self) -> "EvaluateConfig":
        if bool(self.prompts) == (self.prompts_file is not None):
            got = "both" if self.prompts else "neither"
            raise ValueError(f"prompts and prompts_file: got {got}, expected exactly one of them")
        keys = [row.key for row in self.rows]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"rows: key {key!r} is there {keys.count(key)} times; give each row its own")
        named = [("reference", self.reference), *(("against", key) for key in self.against)]
        for number, target in enumerate(self.targets):
            named += [(f"targets[{number}].{name}", key) for name, key in target.rows]
        for name, wanted in named:
            if wanted not in keys:
                raise ValueError(f"{name}: no row {wanted!r}; the rows are {', '.join(keys)}")
        return self

    @model_validator(mode="after")
    def _check_targets(self) -> "EvaluateConfig":
        if self.targets:
            from swd_video.evaluation.metrics import all_metrics

            known = {m.key: m.key in self.margins for m in all_metrics(others=self.metrics.others)}
            known["adherence"] = True
            for number, target in enumerate(self.targets):
                name = "adherence" if target.metric.startswith("adherence_") else target.metric
                if name not in known:
                    raise ValueError(
                        f"targets[{number}].metric: no metric {target.metric!r}; they are {', '.join(known)}"
                    )
                if not known[name] and (target.no_worse_than or target.better_than):
                    raise ValueError(
                        f"targets[{number}].metric: rows are not compared by {name!r}, which has no margin; give "
                        "at_least or at_most"
                    )
        return self

    @property
    def sampled_rows(self) -> list[TeacherRowConfig | StudentRowConfig]:
        """The rows that models make."""
        return [row for row in self.rows if not isinstance(row, RealRowConfig)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Keys of the rows that are held against each other, the row in question first."""
        return [
            (row.key, theirs)
            for theirs in self.against or (self.reference,)
            for row in self.rows
            if row.key != theirs
        ]
