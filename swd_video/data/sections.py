"""The sections of configs that belong to clips: where they come from, and how a teacher makes them."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from swd_video.config import Section
from swd_video.core.grid import LatentSize
from swd_video.models.sections import TeacherSamplingConfig


def _check_grids(grids: tuple[str, ...]) -> tuple[str, ...]:
    for grid in grids:
        LatentSize.parse(grid)
    return grids


class DataConfig(Section):
    """Where training clips come from."""

    manifest: str | None = None
    """JSON lines of path, caption, start and end. Encoded into `cache` first where that is not complete."""
    cache: str
    """Folder of latents on every grid of the config. Relative paths start at the working directory."""
    extra_grids: tuple[str, ...] = ()
    """Grids to encode besides the config's, as "3x8x8", so that runs on other schedules share the cache."""
    encode_batch_size: int = Field(default=4, ge=1)
    """Clips encoded at once."""

    _check_grids = field_validator("extra_grids")(_check_grids)

    @property
    def extra_latent_grids(self) -> list[LatentSize]:
        """The extra grids, parsed."""
        return [LatentSize.parse(grid) for grid in self.extra_grids]


class SynthesizeConfig(TeacherSamplingConfig):
    """Training clips made by a teacher."""

    model: str = "pocket-wan"
    """The teacher: a shipped name, a diffusers folder or a hub name."""
    seed: int = Field(default=0, ge=0)
    """The noise of a clip follows from this, its prompt and the number of the sample."""
    prompts: tuple[str, ...] = ()
    """Give these or `prompts_file`."""
    prompts_file: str | None = None
    """A text file of prompts, one a line. Relative paths start at the working directory."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Clips of each prompt."""
    grids: tuple[str, ...] = Field(min_length=1)
    """Latent grids as "2x6x6" to write every clip on; the last is the size that the teacher makes."""
    keep_latents: bool = True
    """Store the teacher's own latents on the last grid; else they too are decoded and encoded again."""
    prompts_per_file: int = Field(default=4, ge=1)
    """Prompts in one file of the cache: what a kill loses at most, and what processes divide among them."""
    batch_size: int = Field(default=4, ge=1)
    """Clips sampled at once. Another number changes clips in their last bits."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the teacher."""
    cache_dtype: Literal["float16", "bfloat16"] = "float16"
    """Precision of what is stored."""

    _check_grids = field_validator("grids")(_check_grids)

    @model_validator(mode="after")
    def _check_prompts(self) -> "SynthesizeConfig":
        if bool(self.prompts) == (self.prompts_file is not None):
            got = "both" if self.prompts else "neither"
            raise ValueError(f"prompts and prompts_file: got {got}, expected exactly one of them")
        return self

    @property
    def latent_grids(self) -> list[LatentSize]:
        """The grids, parsed."""
        return [LatentSize.parse(grid) for grid in self.grids]
