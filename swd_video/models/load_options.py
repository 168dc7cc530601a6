"""How a model is fitted into memory and run, as a config's `load` and as Python's `options=`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from swd_video.config import Section


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
        named = Path(decoder) if decoder not in (None, "vae") else decoder
        return self if named is None else self.model_copy(update={"decoder": named})

    @property
    def settings(self) -> dict[str, float]:
        """What is set of what only some families take."""
        named = ("embedded_guidance", "decode_timestep", "decode_noise")
        return {name: value for name in named if (value := getattr(self, name)) is not None}
