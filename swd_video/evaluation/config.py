"""Every key of an evaluation config, with its default, its limits and what it means."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from swd_video.config import Section
from swd_video.core.grid import PixelSize

_KEY_PATTERN = r"^[a-z0-9][a-z0-9_-]*$"


class RealClips(Section):
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


class _RowConfig(Section):
    key: str = Field(pattern=_KEY_PATTERN)
    """Short name of the row: in files, in the JSON and for `reference`."""
    title: str | None = None
    """What tables and the page call it; null makes one up."""


class RealRowConfig(_RowConfig):
    """Real clips, as they are or through a model's VAE and back."""

    kind: Literal["real"] = "real"
    clips: RealClips
    through_vae_of: str | None = None
    """A model whose VAE encodes and decodes them: the best that a sampler over its latents can do."""


class TeacherRowConfig(_RowConfig):
    """A teacher, sampled in many steps with guidance."""

    kind: Literal["teacher"] = "teacher"
    model: str
    """A shipped name, a diffusers folder or a hub name."""
    steps: int = Field(default=50, ge=1)
    """Sampling steps; with guidance each runs the transformer twice."""
    guidance_scale: float | None = Field(default=None, ge=1)
    """`uncond + w (cond - uncond)`, so that 1 is off; null is what the teacher's own pipeline does."""
    guidance_scale_2: float | None = Field(default=None, ge=1)
    """Of the second transformer of Wan 2.2 A14B; null is the same."""
    embedded_guidance: float | None = Field(default=None, ge=0)
    """The guidance scale that a teacher distilled for guidance is told (HunyuanVideo); null is its pipeline's, 6."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    shift: float | None = Field(default=None, gt=0)
    """Euler steps over noise levels shifted by this much; null samples with the model's own scheduler."""


class StudentRowConfig(_RowConfig):
    """A student, sampled in its own stages without guidance."""

    kind: Literal["student"] = "student"
    model: str
    """A shipped name, a student's folder or a saved pipeline."""


class MetricsConfig(Section):
    """With what the clips are judged."""

    judge: str | None = None
    """Folder of an attribute judge, which reads what the prompts ask for; null leaves adherence out."""
    encoder: str = "efficientnet"
    """Network of distances and diversity: a video or image encoder of transformers by hub name or folder, or
    `efficientnet`, which is packaged. No network that a row's student was trained with."""
    frame_encoder: str = "efficientnet"
    """Network of subject consistency: an image encoder, chosen likewise."""
    optical_flow: Literal["dis", "farneback"] = "dis"
    """How motion is measured."""
    real_clips: RealClips | None = None
    """What the distances are measured to, and, if they hold several of each prompt, diversity and spread as well; null
    takes the reference row's clips."""


class CostConfig(Section):
    """How seconds and operations are measured: rows take turns in one process."""

    rounds: int = Field(default=5, ge=1)
    """Timed runs of each row."""
    batch_size: int = Field(default=8, ge=1)
    """Clips in one timed run; one alone of a small model would mostly time Python."""


class MarginsConfig(Section):
    """Differences that do not matter, chosen before anything is measured; "equal" means that one lies inside."""

    adherence: float = Field(default=0.05, gt=0)
    """In the share of clips read right, each attribute apart."""
    kernel: float = Field(default=0.1, gt=0)
    """Of the kernel distance, as a share of the reference row's."""
    diversity: float = Field(default=0.05, gt=0)
    """In the share of diversity."""
    spread: float = Field(default=0.05, gt=0)
    """In the share of the spread of pixels."""
    flow: float = Field(default=0.05, gt=0)
    """In the share of motion."""
    sharpness: float = Field(default=0.05, gt=0)
    """In the share of sharpness."""
    flicker: float = Field(default=0.005, gt=0)
    """In steadiness."""
    consistency: float = Field(default=0.01, gt=0)
    """In subject consistency."""


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
    seed: int = Field(default=0, ge=0)
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
    margins: MarginsConfig = MarginsConfig()
    metrics: MetricsConfig = MetricsConfig()
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

    @model_validator(mode="after")
    def _check_whole(self) -> "EvaluateConfig":
        if bool(self.prompts) == (self.prompts_file is not None):
            got = "both" if self.prompts else "neither"
            raise ValueError(f"prompts and prompts_file: got {got}, expected exactly one of them")
        keys = [row.key for row in self.rows]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"rows: key {key!r} is there {keys.count(key)} times; give each row its own")
        for name, wanted in (("reference", self.reference), *(("against", key) for key in self.against)):
            if wanted not in keys:
                raise ValueError(f"{name}: no row {wanted!r}; the rows are {', '.join(keys)}")
        return self
