"""A model's VAE as functions between pixels and normalised latents, and what clips are shown through in its place."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import get_module_execution_device
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.models.spec import ModelSpec


class Codec:
    """The part of an adapter between pixels and latents.

    Attributes:
        decoder: what clips are shown through in the VAE's place, where there is one.
    """

    pipe: Any
    spec: ModelSpec
    decoder: StreamingDecoder | None = None

    @property
    def vae(self) -> Any:
        """The pipeline's own, so that one put in its place is used here too."""
        return self.pipe.vae

    @property
    def published_decoder(self) -> str | None:
        """Name, without its ending, of the file that TAEHV publishes for the model's latents, where there is one."""
        return None

    @property
    def published_decoder_scale(self) -> float:
        """What that decoder takes, divided by latents as the transformer sees them."""
        return 1.0

    def shown_size(self, grid: LatentSize) -> PixelSize:
        """Size of a clip on a grid as it is shown, which is larger than the VAE's where the decoder upscales."""
        compression = self.spec.compression
        size = compression.pixel_size(grid)
        spatial = compression.spatial if self.decoder is None else self.decoder.layout.spatial
        return PixelSize(size.frames, grid.height * spatial, grid.width * spatial)

    @torch.no_grad()
    def encode_video(
        self, pixels: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames latent_height latent_width"]:
        """Pixels in [-1, 1] to float32 latents: the mode of the VAE's posterior, so that caches repeat.

        Raises:
            ValueError: if the size is not legal for the model.
        """
        self.spec.compression.latent_size(PixelSize(*pixels.shape[2:]))
        pixels = pixels.to(get_module_execution_device(self.vae), self.vae.dtype)
        latents = self._normalize(self.vae.encode(pixels).latent_dist.mode().float())
        repeated = self.spec.compression.repeated_frames
        return torch.cat([latents[:, :, :1]] * repeated + [latents], dim=2)

    def decode(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Latents to pixels in [-1, 1], in the VAE's dtype; gradients reach `latents`."""
        return self._decode_raw(self._as_vae_takes(latents))

    def decode_by_decoder(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """The same by the decoder in the VAE's place, whose pixels may lie a little beyond [-1, 1]."""
        assert self.decoder is not None
        pixels: Tensor = self.decoder(latents[:, :, self.spec.compression.repeated_frames :])
        return pixels

    @torch.no_grad()
    def decode_in_parts(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Iterator[Float[Tensor, "batch 3 _ height width"]]:
        """What `decode` gives, the next frames each time; all of them at once where the VAE knows no parts."""
        raw_latents = self._as_vae_takes(latents)
        tiles, slices = (getattr(self.vae, name, False) for name in ("use_tiling", "use_slicing"))
        if tiles or (slices and len(latents) > 1):
            yield self._decode_raw(raw_latents)
        else:
            _bring_to_device(self.vae)
            yield from self._decode_raw_in_parts(raw_latents)

    def _as_vae_takes(self, latents: Tensor) -> Tensor:
        latents = latents.to(get_module_execution_device(self.vae), self.vae.dtype)
        return self._denormalize(latents[:, :, self.spec.compression.repeated_frames :])

    def _latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def _normalize(self, raw_latents: Tensor) -> Tensor:
        """What the VAE's encoder gives to what the transformer sees."""
        return raw_latents * self.vae.config.scaling_factor

    def _denormalize(self, latents: Tensor) -> Tensor:
        """The inverse of `_normalize`, in the very operations of the family's pipeline, so that pixels agree."""
        return latents / self.vae.config.scaling_factor

    def _decode_raw(self, raw_latents: Tensor) -> Tensor:
        return self.vae.decode(raw_latents, return_dict=False)[0]

    def _decode_raw_in_parts(self, raw_latents: Tensor) -> Iterator[Tensor]:
        """Several may run by turns, so each keeps for itself what the next part needs of the one before."""
        yield self._decode_raw(raw_latents)


@apply_forward_hook
def _bring_to_device(network: nn.Module) -> None:
    """What CPU offload does before a network runs, for those whose parts are called one by one."""
