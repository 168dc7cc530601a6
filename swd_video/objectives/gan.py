"""A discriminator on the frozen teacher's features, and the student that wants to deceive it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from swd_video.core.flow import add_noise
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws, keyed_global
from swd_video.core.schedule import ScaleSchedule
from swd_video.losses.gan import ADVERSARIAL_LOSSES
from swd_video.models.spec import ModelSpec
from swd_video.objectives.encoders import TokenGrid, token_grid
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import (
    Blocks,
    ClipPair,
    Learner,
    NoiseLevels,
    Objective,
    ObjectiveConfig,
    known_blocks,
)
from swd_video.objectives.passes import Pass


class GanConfig(ObjectiveConfig, NoiseLevels):
    """A discriminator: heads on the frozen teacher's features."""

    weight: float = Field(default=0.01, gt=0)
    """Factor in the loss."""
    head: Literal["mlp", "conv3d"] = "conv3d"
    """`mlp` judges a clip by its mean token, `conv3d` every place in it."""
    hidden: int = Field(default=64, ge=1)
    """Channels of the heads."""
    block: Blocks | None = Field(default=None, min_length=1)
    """Transformer block, from 0, that gets a head, or a list of them; null is the middle one."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the heads."""
    objective: Literal["hinge", "softplus"] = "hinge"
    """`softplus` is the non-saturating logistic loss of DMD2's and SwD's published code."""
    updates: int = Field(default=1, ge=1)
    """As `loss.dmd.critic_updates`, for the heads; in that code they learn along with the critic."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which clips are judged."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which clips are judged."""

    @property
    def num_updates(self) -> int:
        """The heads'."""
        return self.updates

    @property
    def needs_pairs(self) -> bool:
        """Clips are judged one by one."""
        return False

    def heads(self, spec: ModelSpec) -> nn.ModuleList:
        """New heads for the teacher's blocks."""
        return nn.ModuleList(HEADS[self.head](spec.hidden_size, self.hidden) for _ in self.block or (0,))

    def build(
        self,
        key: str,
        networks: Networks,
        schedule: ScaleSchedule,
        prompts: Mapping[str, Tensor],
        accelerator: Accelerator,
        seed: int,
    ) -> "GanObjective":
        """Make a discriminator."""
        spec = networks.model.spec
        blocks = known_blocks(f"{key}.block", self.block, "teacher", spec.num_blocks)
        with keyed_global(seed, "discriminator"):
            heads = self.heads(spec).to(accelerator.device)
        discriminator = Discriminator(self, heads, blocks)
        return GanObjective(discriminator, weight=self.weight, learner=discriminator)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """The heads judge the student's clips, then learn from those and the true ones."""
        depth = max(self.block or (spec.num_blocks // 2,)) + 1
        return [
            Pass("teacher", grid, gradient="input", depth=depth),
            Pass("heads", grid, gradient="input"),
            Pass("teacher", grid, 2 * self.updates, depth=depth),
            Pass("heads", grid, 2 * self.updates, gradient="weights"),
        ]


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
    """Heads on blocks of the frozen teacher, which sees true clips and the student's through the same noise."""

    name = "discriminator"

    def __init__(self, config: GanConfig, heads: nn.ModuleList, blocks: tuple[int, ...]) -> None:
        self.lr, self.updates = config.lr, config.updates
        self.heads, self._blocks, self._levels = heads, blocks, config
        self._loss, self._student_loss = ADVERSARIAL_LOSSES[config.objective]

    def find_parameters(self, networks: Networks) -> Mapping[str, nn.Parameter]:
        """The heads'."""
        return dict(self.heads.named_parameters())

    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Tell true clips from the student's."""
        sigma, noise = self._levels.noised(clips.target_x0, draws)
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
        sigma, noise = self._levels.noised(clips.target_x0, draws)
        grid = token_grid(clips.target_x0.shape[2:], networks.model.spec.compression.patch)
        tokens = self._tokens(networks, clips.predicted_x0, noise, sigma, clips.prompt_embeds)
        return torch.stack([self._student_loss(logits) for logits in self._logits(tokens, grid)]).mean()

    def _tokens(
        self, networks: Networks, x0: Tensor, noise: Tensor, sigma: Tensor, prompt_embeds: Tensor
    ) -> list[Tensor]:
        tokens = networks.features("teacher", add_noise(x0, noise, sigma), sigma, prompt_embeds, self._blocks)
        return [tokens[block] for block in self._blocks]

    def _logits(self, tokens: list[Tensor], grid: TokenGrid) -> list[Tensor]:
        return head_logits(self.heads, tokens, [grid] * len(tokens))


def head_logits(heads: nn.ModuleList, tokens: Sequence[Tensor], grids: Sequence[TokenGrid]) -> list[Tensor]:
    """What each head says of its tokens, in float32: a discriminator near its margin lives on small differences."""
    with torch.autocast(tokens[0].device.type, enabled=False):
        return [head(x.float(), grid) for head, x, grid in zip(heads, tokens, grids, strict=True)]


@dataclass(frozen=True)
class GanObjective(Objective):
    """Deceive the discriminator.

    Attributes:
        discriminator: who is to be deceived.
    """

    discriminator: Discriminator

    def __call__(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """The loss of a batch; gradients reach the student's clips."""
        return self.discriminator.deceive(networks, clips, draws)
