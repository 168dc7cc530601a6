"""Keys of the networks whose tokens `loss.mmd` compares, with their defaults and limits."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from swd_video.config import Section


class TeacherEncoderConfig(Section):
    """The teacher's transformer blocks, which see latents."""

    kind: Literal["teacher"] = "teacher"
    clean: bool = False
    """See the latents as they are, at noise level 0; else noised to a level between `sigma_min` and `sigma_max`."""


class CriticEncoderConfig(Section):
    """The blocks of the critic of `loss.dmd`, which learns beside the student, as in the public code of SwD."""

    kind: Literal["critic"] = "critic"
    clean: bool = False
    """As of the teacher."""


class TransformersEncoderConfig(Section):
    """A video encoder of transformers: VideoMAE, V-JEPA 2, TimeSformer or ViViT. It sees pixels."""

    kind: Literal["transformers"] = "transformers"
    name: str = Field(min_length=1)
    """Its folder or hub name."""
    frames: int | None = Field(default=None, ge=1)
    """Pictures that it is shown of a window; null is what it was trained with."""


class TransNetEncoderConfig(Section):
    """The trunk of TransNetV2, which finds cuts in films (arXiv 2008.04838). It sees pixels."""

    kind: Literal["transnetv2"] = "transnetv2"
    weights: str
    """Safetensors file that `python -m tools.transnetv2` makes from the published weights."""
    short_side_px: int = Field(default=27, ge=8)
    """Short side that pictures are resized to; it was trained on pictures of 27x48."""


EncoderConfig = Annotated[
    TeacherEncoderConfig | CriticEncoderConfig | TransformersEncoderConfig | TransNetEncoderConfig,
    Field(discriminator="kind"),
]
LATENT_ENCODERS = (TeacherEncoderConfig, CriticEncoderConfig)


class WindowConfig(Section):
    """What encoders of pixels are shown of each clip: one window for all clips of a stage, drawn anew for every step.

    Student's clip and true clip are cut alike.
    """

    frames: int | None = Field(default=5, ge=1)
    """Latent frames, consecutive, of longer stages; null shows all."""
    crop: tuple[PositiveInt, PositiveInt] | None = (32, 32)
    """Height and width in latents, of larger stages; null shows whole pictures."""
