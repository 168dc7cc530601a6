"""A discriminator of decoded clips: it sees three neighbouring frames and the latents that they stand for."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

_SLOPE = 0.2


class FrameDiscriminator(nn.Module):
    """Strided convolutions over three frames at once, joined with the latents: a logit for each place.

    Fine patterns and flicker show in three neighbours; that edges lie where they should, only beside the latents.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.see = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in ((9, width), (width, 2 * width))
        )
        self.join = spectral_norm(nn.Conv2d(2 * width + channels, 2 * width, 3, padding=1))
        self.logit = spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1))

    def forward(
        self,
        latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"],
        pixels: Float[Tensor, "batch 3 frames height width"],
        middles: Int[Tensor, " places"],
        latent_frames: Int[Tensor, " places"],
    ) -> Float[Tensor, "batch places out_height out_width"]:
        """Judge neighbouring frames.

        Those in the middle are numbered, and the latent frame that holds each; the first and the last frame have no two
        neighbours. Pixels lie in [-1, 1].
        """
        frames = torch.stack([pixels[:, :, middles + offset] for offset in (-1, 0, 1)], dim=1)
        x = rearrange(frames, "b n c f h w -> (b f) (n c) h w")
        for convolution in self.see:
            x = functional.leaky_relu(convolution(x), _SLOPE)
        known = rearrange(latents[:, :, latent_frames], "b c f h w -> (b f) c h w")
        known = functional.interpolate(known.to(x.dtype), size=x.shape[2:])
        x = functional.leaky_relu(self.join(torch.cat([x, known], dim=1)), _SLOPE)
        return rearrange(self.logit(x), "(b f) 1 h w -> b f h w", b=len(pixels))
