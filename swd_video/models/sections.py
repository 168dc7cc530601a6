"""The sections of configs that belong to models: how one is fitted into memory and run, and how a teacher is guided."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from swd_video.config import Section
from swd_video.files import expand_home


class LoadOptions(Section):
    """How a model is fitted into memory and run; what diffusers offers."""

    attention: Literal["auto", "native", "xformers", "flash", "sage"] = "auto"
    """`auto` is xformers on CUDA where it really runs, else torch's own (`native`); `sage` computes no gradients."""
    cpu_offload: Literal["model", "sequential"] | None = None
    """`model` keeps on the device only the network that is running, `sequential` only the layer; null all."""
    vae_tiling: bool = False
    """Encode and decode in overlapping tiles: less memory; pixels change a little."""
    vae_slicing: bool = False
    """Encode and decode clip by clip."""
    float8_weights: bool = False
    """Keep the transformer's weights in float8 and widen each layer while it runs: less memory; velocities change a
    little."""
    transformer_file: Path | None = None
    """Checkpoint in a single file, ending in .safetensors, to use as the transformer instead of the model's own."""
    embedded_guidance: float | None = Field(default=None, ge=0)
    """The guidance scale that a transformer distilled for guidance is told (HunyuanVideo); null is 6."""
    decode_timestep: float | None = Field(default=None, ge=0, le=1)
    """Noise level that the decoder of LTX-Video 0.9.1 and later is told; null is 0.05."""
    decode_noise: float | None = Field(default=None, ge=0, le=1)
    """Share of noise that it gets; null is 0.025."""
    decoder: Literal["vae"] | Path | None = None
    """What clips are shown through: `vae`, or a decoder's file; null is the decoder that a student carries, else the
    VAE. A student that is distilled with a decoder carries it."""
    adapter: str | None = None
    """An adapter from outside of the package, as `module:Class` or by the name of its entry point; null is the one that
    belongs to the model's pipeline."""

    def shown_through(self, decoder: str | None) -> "LoadOptions":
        """The same with another `decoder`, where one is named."""
        named = decoder if decoder in (None, "vae") else expand_home(decoder)
        return self if named is None else self.model_copy(update={"decoder": named})

    @property
    def settings(self) -> dict[str, float]:
        """What is set of what only some families take."""
        named = ("embedded_guidance", "decode_timestep", "decode_noise")
        return {name: value for name in named if (value := getattr(self, name)) is not None}


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
        if len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"blocks: got {list(self.blocks)}, expected each block once; name each once")
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
