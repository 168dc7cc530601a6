"""Flags of the commands that run a model."""

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import tyro

from swd_video.models.devices import Device, Precision
from swd_video.models.sections import LoadOptions


@dataclass(frozen=True)
class ModelFlags:
    """How a model is run."""

    device: Device = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    dtype: Precision = "auto"
    """Precision; auto takes bfloat16 on cuda and float32 elsewhere."""
    decoder: str | None = None
    """The same as --load.decoder: vae, or a decoder's file; default what the student carries, else the VAE."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """How the model is fitted into memory and run; the keys of a config's `load`."""

    @property
    def options(self) -> LoadOptions:
        """How the model is fitted into memory and run, --decoder included."""
        return self.load.shown_through(self.decoder)


@dataclass(frozen=True)
class ScriptModelFlags(ModelFlags):
    """Which model a script is for, and how it is run."""

    model: str | None = None
    """Student to use instead of the script's: a shipped name or a folder."""
    reader: str | None = None
    """Reader of the script from another package, as module:Class or by its entry point's name; default: what belongs to
    the file's suffix."""


# Without a prefix: --device, not --run.device.
OfModel: TypeAlias = Annotated[ModelFlags, tyro.conf.arg(name="")]
OfScriptModel: TypeAlias = Annotated[ScriptModelFlags, tyro.conf.arg(name="")]


def quiet_loading() -> None:
    """Take the progress bars of diffusers and transformers, one a component, off stderr."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
