"""Discriminators of decoded clips, which see three neighbouring frames."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from swd_video.models.pixel_encoders import PixelEncoder
from swd_video.objectives.gan import ConvolutionHead, head_logits

_SLOPE = 0.2


class FrameDiscriminator(nn.Module):
    """Strided convolutions over three frames at once, joined with the latents: a logit for each place.

    Fine patterns and flicker show in three neighbours; that edges lie where they should, only beside the latents.
    """

    sees_latents = True

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
    ) -> list[Float[Tensor, "batch places out_height out_width"]]:
        """Judge neighbouring frames: logits, all in one piece.

        Those in the middle are numbered, and the latent frame that holds each; the first and the last frame have no two
        neighbours. Pixels lie in [-1, 1].
        """
        x = rearrange(_neighbours(pixels, middles), "b f c n h w -> (b f) (n c) h w")
        for convolution in self.see:
            x = functional.leaky_relu(convolution(x), _SLOPE)
        known = rearrange(latents[:, :, latent_frames], "b c f h w -> (b f) c h w")
        known = functional.interpolate(known.to(x.dtype), size=x.shape[2:])
        x = functional.leaky_relu(self.join(torch.cat([x, known], dim=1)), _SLOPE)
        return [rearrange(self.logit(x), "(b f) 1 h w -> b f h w", b=len(pixels)).float()]


class FeatureDiscriminator(nn.Module):
    """Heads on a frozen network of pixels, which sees three frames as a clip: a logit for each place of each block.

    Where convolutions that start from nothing find any pattern that gives a decoder away, a network that knows pictures
    finds what looks wrong in them. Source: Projected GANs Converge Faster (arXiv 2111.01007).
    """

    sees_latents = False

    def __init__(self, network: PixelEncoder, blocks: Sequence[int], width: int) -> None:
        super().__init__()
        self._see = lambda clips: network.tokens(clips, blocks)  # not a part of it: it does not learn
        self.heads = nn.ModuleList(ConvolutionHead(network.channels(block), width) for block in blocks)

    def forward(
        self, latents: Tensor, pixels: Tensor, middles: Tensor, latent_frames: Tensor
    ) -> list[Float[Tensor, "clips 1 token_frames token_height token_width"]]:
        """Logits of each block; as `FrameDiscriminator`, but for the latents, which it does not look at."""
        seen = self._see(rearrange(_neighbours(pixels, middles), "b f c n h w -> (b f) c n h w"))
        return head_logits(self.heads, seen)


def _neighbours(
    pixels: Float[Tensor, "batch 3 frames height width"], middles: Int[Tensor, " places"]
) -> Float[Tensor, "batch places 3 3 height width"]:
    """Channels, and frames of which the middle one is numbered."""
    frames = torch.stack([pixels[:, :, middles + offset] for offset in (-1, 0, 1)], dim=3)
    return rearrange(frames, "b c f n h w -> b f c n h w")
