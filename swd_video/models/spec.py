"""Facts about a text-to-video model."""

from dataclasses import dataclass

from swd_video.core.grid import Compression, PixelSize


@dataclass(frozen=True)
class ModelSpec:
    """Facts about a model that do not need its weights.

    Attributes:
        family: name of the adapter, for example "wan".
        compression: how clips are divided into latents and tokens, and so which sizes are legal.
        latent_channels: channels of the latents.
        hidden_size: channels of a transformer token.
        num_blocks: transformer blocks, in the order in which `features` counts them.
        text_length: rows of an embedded prompt: its tokens, padding included, and in front of them the
            pooled embedding of families that have one.
        text_dim: channels of such a row.
        fps: frames per second of the clips the model was trained on.
        training_size: size of the clips the model was trained on, where known.
        guidance_scale: of the classifier-free guidance that the model's pipeline uses unless told otherwise; 1 is off.
        embedded_guidance: the scale that a guidance-distilled transformer is told instead; None where it is told none.
    """

    family: str
    compression: Compression
    latent_channels: int
    hidden_size: int
    num_blocks: int
    text_length: int
    text_dim: int
    fps: float
    training_size: PixelSize | None
    guidance_scale: float
    embedded_guidance: float | None
