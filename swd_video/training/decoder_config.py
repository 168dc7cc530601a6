"""Every key of the config of `swd-video decoder`, with its default, its limits and what it means."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from swd_video.config import Section
from swd_video.core.grid import LatentSize
from swd_video.data.sections import DataConfig
from swd_video.objectives.encoders import AnyPixelEncoder
from swd_video.objectives.objective import Blocks
from swd_video.training.config import LoadConfig


class DecoderShapeConfig(Section):
    """The shape of a decoder: levels, each twice as fine in space and time as the one before, while that is needed."""

    widths: tuple[PositiveInt, ...] = Field(default=(64, 32, 16), min_length=1)
    """Channels of each level."""
    blocks: tuple[NonNegativeInt, ...] = Field(default=(3, 2, 1), min_length=1)
    """Residual blocks of each level, which also see the frame before."""
    patch: tuple[int, int] = (1, 2)
    """Frames, and rows and columns, of pixels that a cell of the last level becomes."""
    upscale: Literal[1, 2, 4] = 1
    """Pixels along height and width for each of the VAE: 2 makes larger clips than the VAE does, of which the training
    clips must have the size."""


class HeldOutConfig(Section):
    """Clips that are not trained on, by which decoder and VAE are compared."""

    manifest: str | None = None
    """Of other clips than those of `data`; null keeps clips of `data.manifest` back."""
    count: int = Field(default=32, ge=1)
    """How many, drawn by the seed."""


class SeenFeaturesConfig(Section):
    """Blocks of a frozen network of pixels."""

    encoder: AnyPixelEncoder
    """As in `loss.mmd`. It must not judge what was decoded so."""
    block: Blocks = Field(min_length=1)
    """Its block, from 0, or a list of them."""


class DiscriminatorConfig(Section):
    """A second part of the training, in which a discriminator makes edges crisp; it sees three frames at once."""

    steps: int = Field(default=2000, ge=1)
    """Steps of it, after `train.steps`."""
    weight: float = Field(default=0.02, gt=0)
    """Factor in the decoder's loss."""
    features: SeenFeaturesConfig | None = None
    """What it sees frames through: it is heads on blocks of a frozen network then. Null gives it convolutions of its
    own, which see latents as well."""
    width: int = Field(default=48, ge=8)
    """Channels of its first convolution, or of its heads."""
    frames: int = Field(default=4, ge=1)
    """Places in a clip at which it judges three neighbouring frames, drawn for every step."""
    lr: float = Field(default=3e-4, gt=0)
    """Its learning rate."""
    decoder_lr_share: float = Field(default=0.25, gt=0, le=1)
    """Share of the decoder's own learning rates at which this part starts."""
    kept_share: float = Field(default=1.0, gt=0, le=1)
    """How far the weights go from those before this part to those after it: 0.5 keeps some of the detail, and little of
    the false patterns that come with it (arXiv 1809.00219, 3.4). A finished run writes its decoder anew for another."""


class ImitateConfig(Section):
    """Clips of a student: its latents are no clip's, so the decoder learns to show what the VAE shows of them.

    They are made when the run begins. Where a discriminator makes edges crisp, the VAE's pictures of them, which are
    soft, say no more than where things are and of what colour.
    """

    student: str
    """A shipped name, a student's folder or a saved pipeline; its last stage is on the run's grid."""
    prompts_file: str
    """What it is asked for, one prompt a line, in turn."""
    count: int = Field(default=512, ge=1)
    """Clips."""
    batch_size: int = Field(default=8, ge=1)
    """Clips made at once."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the clips in a step that are the student's."""


class FeaturesConfig(SeenFeaturesConfig):
    """A frozen network of pixels, whose features of decoded clips shall be those of the clips."""

    weight: float = Field(default=0.1, gt=0)
    """Factor in the loss of the mean absolute error of features, each place's normalised over its channels."""


class DecoderTrainConfig(Section):
    """How a decoder learns."""

    start: str | None = None
    """A decoder's file to go on from, of the same shape and VAE, as for another student; null begins anew."""
    steps: int = Field(default=20000, ge=1)
    """Steps of the first part, by absolute errors alone."""
    batch_size: int = Field(default=6, ge=1)
    """Clips in a step."""
    crop: int | None = Field(default=6, ge=1)
    """Height and width in latents of what is shown of a clip; null shows whole pictures."""
    frames: int | None = Field(default=None, ge=2)
    """Latent frames, consecutive, of what is shown of a clip; null shows all. Of one alone nothing before is known."""
    differences: float = Field(default=0.5, ge=0)
    """Weight of the error of differences between neighbours along time, height and width, beside that of values."""
    features: FeaturesConfig | None = None
    """Null compares pixels alone."""
    imitate: ImitateConfig | None = None
    """Null learns from clips alone."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of AdamW."""
    muon_lr: float | None = Field(default=2e-2, gt=0)
    """Learning rate of Muon for the convolutions between hidden channels; null gives them to AdamW too."""
    lr_warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the learning rates rise from 0; they stay, and fall to 0 over the last 45 %."""
    mixed_precision: Literal["bf16"] | None = None
    """`bf16` runs the networks under bfloat16 autocast."""
    clips_in_memory: int = Field(default=0, ge=0)
    """Clips that are kept once they are read."""
    discriminator: DiscriminatorConfig | None = None
    """Null leaves the second part out."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    sample_every: int = Field(default=1000, ge=0)
    """Steps between samples of held-out clips; 0 makes none."""

    @property
    def num_imitated(self) -> int:
        """Clips in a step that are a student's."""
        return 0 if self.imitate is None else round(self.imitate.share * self.batch_size)

    @model_validator(mode="after")
    def _check_share(self) -> "DecoderTrainConfig":
        if self.imitate is not None and not 0 < self.num_imitated < self.batch_size:
            raise ValueError(
                f"imitate.share: {self.imitate.share} of a batch_size of {self.batch_size} is {self.num_imitated}; "
                "expected some of the clips, not all; set another share, or a larger batch_size"
            )
        return self


class DecoderConfig(Section):
    """A fast decoder for the VAE of a model: its shape, the clips that it learns from, and how."""

    model: str = "pocket-wan"
    """Whose VAE: a shipped name, a diffusers folder of any family, or a hub name."""
    seed: int = Field(default=0, ge=0)
    """Every draw of the run follows from it."""
    data: DataConfig
    """Its `manifest` is needed: the decoder learns from the clips themselves."""
    load: LoadConfig = LoadConfig()
    grid: str
    """Latent grid of the clips, as "5x12x12"."""
    decoder: DecoderShapeConfig = DecoderShapeConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    train: DecoderTrainConfig = DecoderTrainConfig()

    @field_validator("grid")
    @classmethod
    def _check_grid(cls, grid: str) -> str:
        LatentSize.parse(grid)
        return grid

    @model_validator(mode="after")
    def _check_imitation(self) -> "DecoderConfig":
        if self.train.imitate is not None and self.decoder.upscale > 1:
            raise ValueError(
                "train.imitate: shows what the VAE shows, which is smaller with decoder.upscale; leave one out"
            )
        return self
