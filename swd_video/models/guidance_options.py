"""What of a teacher's guidance is a section of several configs."""

from pathlib import Path

from pydantic import Field, model_validator

from swd_video.config import Section


class WeakerSelfConfig(Section):
    """Guidance away from a weaker version of the teacher, given the same prompt: sharper clips that stay as varied.

    Source: Guiding a Diffusion Model with a Bad Version of Itself (arXiv 2406.02507), at noise levels as in
    arXiv 2404.07724.
    """

    scale: float = Field(default=1.5, gt=1)
    """`weak + scale (own - weak)`, on top of the guidance by prompts."""
    blocks: tuple[int, ...] = ()
    """Blocks, from 0, that the weaker version leaves out."""
    transformer_file: Path | None = None
    """Weights in a single file that are weaker, as those of an earlier step; null takes the teacher's own."""
    sigma_min: float = Field(default=0.0, ge=0, le=1)
    """Lowest noise level at which it leads."""
    sigma_max: float = Field(default=1.0, ge=0, le=1)
    """Highest noise level at which it leads."""

    @model_validator(mode="after")
    def _check(self) -> "WeakerSelfConfig":
        if not self.blocks and self.transformer_file is None:
            raise ValueError(
                "blocks, transformer_file: got neither; say what makes the weaker version weaker"
            )
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min: got {self.sigma_min:g}, expected at most sigma_max, {self.sigma_max:g}"
            )
        return self
