"""What the rest of the package asks of a text-to-video model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma
from swd_video.core.grid import Compression, PixelSize


@dataclass(frozen=True)
class ModelSpec:
    """Facts about a model that do not need its weights.

    Attributes:
        family: name of the adapter, for example "wan".
        compression: how clips are divided into latents and tokens.
        latent_channels: channels of the latents.
        hidden_size: channels of a transformer token.
        num_blocks: transformer blocks.
        text_length: tokens of a prompt, padding included.
        text_dim: channels of a prompt token.
        fps: frames per second of the clips the model was trained on.
        training_size: size of the clips the model was trained on, where known.
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


class VideoModel(ABC):
    """A text-to-video model seen as four functions: text encoder, VAE both ways, and velocity.

    Everything outside speaks `latents`: normalised, as the transformer sees them.

    Attributes:
        spec: facts about the model.
        transformer: the network that predicts velocities. Methods that run it take another of the same
            architecture as `transformer=`, so that teacher and student share one adapter.
    """

    spec: ModelSpec
    transformer: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return next(self.transformer.parameters()).device

    @abstractmethod
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts, padded or cut to `spec.text_length` tokens."""

    @abstractmethod
    def encode_video(
        self, pixels: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames latent_height latent_width"]:
        """Pixels in [-1, 1] to latents: the mode of the VAE's posterior, not a sample, so that caches repeat.

        Raises:
            ValueError: if the size is not legal for the model.
        """

    @abstractmethod
    def decode(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Latents to pixels in [-1, 1]."""

    @abstractmethod
    def predict_velocity(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        transformer: nn.Module | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Predict `noise - x0`, without guidance, in the dtype of `noisy_latents`."""

    @abstractmethod
    def features(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        blocks: Sequence[int],
        transformer: nn.Module | None = None,
    ) -> list[Float[Tensor, "batch tokens hidden_size"]]:
        """Tokens after each of the asked transformer blocks, in the order asked.

        Nothing after the last asked block is computed, and gradients reach `noisy_latents`.

        Args:
            noisy_latents: latents at noise level `sigma`.
            sigma: noise level, one number or one for each clip.
            prompt_embeds: what `encode_prompt` gave.
            blocks: indices of blocks, from 0.
            transformer: run this network instead of `self.transformer`.

        Raises:
            ValueError: if a block does not exist.
        """
