"""A discriminator on the frozen teacher's features, and the student that wants to deceive it."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import add_noise
from swd_video.core.randomness import SampleDraws, keyed_global
from swd_video.losses.gan import ADVERSARIAL_LOSSES
from swd_video.objectives.dmd import NoiseRange
from swd_video.objectives.features import TokenGrid, token_grid
from swd_video.objectives.learners import ClipPair, Learner
from swd_video.objectives.networks import Networks


class MeanHead(nn.Module):
    """Four layers on the mean token of a clip: one logit. Source: Scale-wise Distillation (arXiv 2503.16397), 4.2."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(
        self, tokens: Float[Tensor, "batch tokens channels"], grid: TokenGrid
    ) -> Float[Tensor, "batch 1"]:
        """Logits of clips."""
        logits: Tensor = self.layers(self.norm(tokens).mean(dim=1))
        return logits


class ConvolutionHead(nn.Module):
    """Two residual 3-D convolutions over the tokens where they lie: a logit for each place in space and time."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.narrow = nn.Linear(channels, hidden)
        self.convolutions = nn.ModuleList(nn.Conv3d(hidden, hidden, 3, padding=1) for _ in range(2))
        self.logit = nn.Conv3d(hidden, 1, 1)

    def forward(
        self, tokens: Float[Tensor, "batch tokens channels"], grid: TokenGrid
    ) -> Float[Tensor, "batch 1 frames height width"]:
        """Logits of places."""
        frames, height, width = grid
        hidden = nn.functional.silu(self.narrow(self.norm(tokens)))
        hidden = rearrange(hidden, "b (f h w) c -> b c f h w", f=frames, h=height, w=width)
        for convolution in self.convolutions:
            hidden = hidden + nn.functional.silu(convolution(hidden))
        logits: Tensor = self.logit(hidden)
        return logits


HEADS: dict[str, type[MeanHead] | type[ConvolutionHead]] = {"mlp": MeanHead, "conv3d": ConvolutionHead}


class Discriminator(Learner):
    """Heads on blocks of the frozen teacher, which sees true clips and the student's through the same noise.

    Args:
        head: a key of `HEADS`.
        blocks: of the teacher, from 0.
        channels: of its tokens.
        hidden: channels of the heads.
        lr: learning rate of the heads.
        noise: levels at which clips are compared.
        seed: of the run; the heads' first weights follow from it.
        device: where the heads live.
        objective: a key of `ADVERSARIAL_LOSSES`.
        updates: see `Learner`.
    """

    def __init__(
        self,
        head: str,
        blocks: tuple[int, ...],
        channels: int,
        hidden: int,
        lr: float,
        noise: NoiseRange,
        seed: int,
        device: torch.device,
        objective: str = "hinge",
        updates: int = 1,
    ) -> None:
        with keyed_global(seed, "discriminator"):
            heads = nn.ModuleList(HEADS[head](channels, hidden) for _ in blocks)
        self.heads = heads.to(device)
        super().__init__("discriminator", dict(self.heads.named_parameters()), lr, updates)
        self._loss, self._student_loss = ADVERSARIAL_LOSSES[objective]
        self._blocks, self._noise = blocks, noise

    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Tell true clips from the student's."""
        sigma, noise = self._noise.noised(clips.target_x0, draws)
        with torch.no_grad():
            target, predicted = (
                self._tokens(networks, x0, noise, sigma, clips.prompt_embeds)
                for x0 in (clips.target_x0, clips.predicted_x0)
            )
        grid = token_grid(clips.target_x0.shape[2:], networks.model.spec.compression.patch)
        losses = [
            self._loss(real, fake)
            for real, fake in zip(self._logits(target, grid), self._logits(predicted, grid), strict=True)
        ]
        return torch.stack(losses).mean()

    def deceive(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """What the student is trained on; gradients reach its clips, and the heads' are thrown away."""
        sigma, noise = self._noise.noised(clips.target_x0, draws)
        grid = token_grid(clips.target_x0.shape[2:], networks.model.spec.compression.patch)
        tokens = self._tokens(networks, clips.predicted_x0, noise, sigma, clips.prompt_embeds)
        return torch.stack([self._student_loss(logits) for logits in self._logits(tokens, grid)]).mean()

    def _tokens(
        self, networks: Networks, x0: Tensor, noise: Tensor, sigma: Tensor, prompt_embeds: Tensor
    ) -> list[Tensor]:
        tokens = networks.features("teacher", add_noise(x0, noise, sigma), sigma, prompt_embeds, self._blocks)
        return [tokens[block] for block in self._blocks]

    def _logits(self, tokens: list[Tensor], grid: TokenGrid) -> list[Tensor]:
        # In float32: a discriminator near its margin lives on small differences.
        with torch.autocast(tokens[0].device.type, enabled=False):
            return [head(x.float(), grid) for head, x in zip(self.heads, tokens, strict=True)]


@dataclass(frozen=True)
class GanObjective:
    """Deceive the discriminator.

    Attributes:
        discriminator: who is to be deceived.
    """

    discriminator: Discriminator

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach the student's clips."""
        return self.discriminator.deceive(networks, clips, draws)
