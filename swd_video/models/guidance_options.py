"""How a teacher makes clips, wherever a config says so."""

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


class TeacherSamplingConfig(Section):
    """How a teacher makes clips; keys of every section that asks it for some."""

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
    weaker: WeakerSelfConfig | None = None
    """A weaker version of the teacher that guidance leads away from as well; null is none."""
    shift: float | None = Field(default=None, gt=0)
    """Euler steps over noise levels shifted by this much; null samples with the model's own scheduler."""
