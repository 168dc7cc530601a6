"""A discriminator on a frozen network's features, and the student that wants to deceive it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws, keyed_global
from swd_video.core.schedule import ScaleSchedule
from swd_video.losses.gan import ADVERSARIAL_LOSSES
from swd_video.models.spec import ModelSpec
from swd_video.objectives.encoders import (
    AnyEncoder,
    Comparison,
    Encoder,
    TeacherEncoderConfig,
    TokenGrid,
    Whose,
    WindowConfig,
    check_noise,
    depth_of,
    encoder_passes,
)
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
from swd_video.student.student_file import PixelNetwork


class GanConfig(ObjectiveConfig, NoiseLevels):
    """A discriminator: heads on a frozen network's features."""

    weight: float = Field(default=0.01, gt=0)
    """Factor in the loss."""
    encoder: AnyEncoder = TeacherEncoderConfig()
    """The frozen network whose features the heads judge: the teacher, or one of pixels, as in `loss.mmd`."""
    window: WindowConfig = WindowConfig()
    """What an encoder of pixels is shown."""
    head: Literal["mlp", "conv3d"] = "conv3d"
    """`mlp` judges a clip by its mean token, `conv3d` every place in it."""
    hidden: int = Field(default=64, ge=1)
    """Channels of the heads."""
    block: Blocks | None = Field(default=None, min_length=1)
    """Block of the encoder, from 0, that gets a head, or a list of them; null is the middle one."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the heads."""
    group: int = Field(default=1, ge=1)
    """Clips of a prompt that are judged together: heads also see how far they lie apart, and find out a student that
    makes them alike. More than 1 is as many as `loss.group`."""
    objective: Literal["hinge", "softplus"] = "hinge"
    """`softplus` is the non-saturating logistic loss of DMD2's and SwD's published code."""
    updates: int = Field(default=1, ge=1)
    """Times that the heads learn for each step of the student, as `loss.dmd.critic_updates` of the critic; in the
    published code both learn equally often."""
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Lowest noise level at which clips are judged."""
    sigma_max: float = Field(default=0.6, gt=0, le=1)
    """Highest noise level at which clips are judged."""

    @model_validator(mode="after")
    def _check_encoder(self) -> "GanConfig":
        check_noise(self.encoder, self)
        if self.window != WindowConfig() and not self.encoder.sees_pixels:
            raise ValueError("window: this encoder sees no pixels; name one that does, or leave window out")
        if self.group > 1 and self.head == "mlp":
            raise ValueError("group: heads of mlp judge clip by clip; take conv3d, or leave group out")
        return self

    @property
    def num_updates(self) -> int:
        """The heads'."""
        return self.updates

    @property
    def needs_pairs(self) -> bool:
        """Student's and true clips are judged apart."""
        return False

    @property
    def decodes(self) -> Literal["vae", "decoder"] | None:
        """For an encoder of pixels."""
        return self.window.through if self.encoder.sees_pixels else None

    @property
    def trained_through(self) -> tuple[PixelNetwork, ...]:
        """An encoder of pixels."""
        record = self.encoder.record
        return () if record is None else (record,)

    def see(self, key: str, spec: ModelSpec, device: torch.device) -> tuple[Encoder, tuple[int, ...]]:
        """Load the encoder: it, and those of its blocks that get a head.

        Raises:
            ConfigError: if it cannot be loaded, or has no such block; `key` is this section's.
        """
        encoder = self.encoder.build(f"{key}.encoder", spec, self.window, device)
        return encoder, known_blocks(f"{key}.block", self.block, encoder.name, encoder.num_blocks)

    def heads(self, encoder: Encoder, blocks: Sequence[int]) -> nn.ModuleList:
        """New ones for blocks of the encoder."""
        make = partial(ConvolutionHead, group=self.group) if self.head == "conv3d" else MeanHead
        return nn.ModuleList(make(encoder.channels(block), self.hidden) for block in blocks)

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
        encoder, blocks = self.see(key, networks.model.spec, accelerator.device)
        with keyed_global(seed, "discriminator"):
            heads = self.heads(encoder, blocks).to(accelerator.device)
        discriminator = Discriminator(self, heads, encoder, blocks)
        return GanObjective(discriminator, weight=self.weight, learner=discriminator)

    def passes(self, spec: ModelSpec, grid: LatentSize) -> list[Pass]:
        """The heads judge the student's clips, then learn from those and the true ones."""
        view = self.encoder, depth_of(self.encoder, self.block, spec)
        return [
            *encoder_passes([view], self.window, grid, num_others=2 * self.updates),
            Pass("heads", grid, gradient="input"),
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
    """Two residual 3-D convolutions over the tokens where they lie: a logit for each place in space and time.

    With groups, the first also sees how far each `group` consecutive clips lie apart, one number for all of their
    places; fewer clips are one group. Source: Progressive Growing of GANs (arXiv 1710.10196), section 3.
    """

    def __init__(self, channels: int, hidden: int, group: int = 1) -> None:
        super().__init__()
        self._group = group
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.narrow = nn.Linear(channels, hidden)
        inputs = hidden + 1 if group > 1 else hidden
        self.convolutions = nn.ModuleList(nn.Conv3d(size, hidden, 3, padding=1) for size in (inputs, hidden))
        self.logit = nn.Conv3d(hidden, 1, 1)

    def forward(
        self, tokens: Float[Tensor, "batch tokens channels"], grid: TokenGrid
    ) -> Float[Tensor, "batch 1 frames height width"]:
        """Logits of places."""
        frames, height, width = grid
        hidden = nn.functional.silu(self.narrow(self.norm(tokens)))
        hidden = rearrange(hidden, "b (f h w) c -> b c f h w", f=frames, h=height, w=width)
        first, second = self.convolutions
        seen = hidden if self._group == 1 else torch.cat([hidden, _deviation(hidden, self._group)], dim=1)
        hidden = hidden + nn.functional.silu(first(seen))
        hidden = hidden + nn.functional.silu(second(hidden))
        logits: Tensor = self.logit(hidden)
        return logits


def _deviation(hidden: Float[Tensor, "batch _ f h w"], group: int) -> Float[Tensor, "batch 1 f h w"]:
    """The standard deviation over the clips of each group, averaged over channels and places."""
    grouped = hidden.unflatten(0, (-1, min(group, len(hidden))))
    deviation = grouped.var(dim=1, correction=0).add(1e-8).sqrt().mean(dim=(1, 2, 3, 4))
    return deviation.repeat_interleave(grouped.shape[1]).view(-1, 1, 1, 1, 1).expand_as(hidden[:, :1])


class Discriminator(Learner):
    """Heads on blocks of a frozen encoder, which sees true clips and the student's through one noise, or window."""

    name = "discriminator"

    def __init__(
        self, config: GanConfig, heads: nn.ModuleList, encoder: Encoder, blocks: tuple[int, ...]
    ) -> None:
        self.lr, self.updates = config.lr, config.updates
        self.heads, self._encoder, self._blocks, self._config = heads, encoder, blocks, config
        self._loss, self._student_loss = ADVERSARIAL_LOSSES[config.objective]

    def find_parameters(self, networks: Networks) -> Mapping[str, nn.Parameter]:
        """The heads'."""
        return dict(self.heads.named_parameters())

    def loss(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """Tell true clips from the student's."""
        seen = self._comparison(networks, clips, draws)
        with torch.no_grad():
            target, predicted = (self._tokens(seen, whose) for whose in ("target", "predicted"))
        losses = [
            self._loss(real, fake)
            for real, fake in zip(self._logits(target), self._logits(predicted), strict=True)
        ]
        return torch.stack(losses).mean()

    def deceive(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Float[Tensor, ""]:
        """What the student is trained on; gradients reach its clips, and the heads' are thrown away."""
        tokens = self._tokens(self._comparison(networks, clips, draws), "predicted")
        return torch.stack([self._student_loss(logits) for logits in self._logits(tokens)]).mean()

    def _comparison(self, networks: Networks, clips: ClipPair, draws: SampleDraws) -> Comparison:
        return Comparison(networks, clips, draws, self._config.group, self._config.window)

    def _tokens(self, seen: Comparison, whose: Whose) -> list[Tensor]:
        levels = self._config.sigma_min, self._config.sigma_max
        tokens = self._encoder.see(seen, whose, levels, self._blocks)
        return [tokens[block] for block in self._blocks]

    def _logits(self, tokens: list[Tensor]) -> list[Tensor]:
        return head_logits(self.heads, tokens)


def head_logits(heads: nn.ModuleList, tokens: Sequence[Float[Tensor, "batch frames _ _ _"]]) -> list[Tensor]:
    """What each head says of its tokens, in float32: a discriminator near its margin lives on small differences."""
    with torch.autocast(tokens[0].device.type, enabled=False):
        return [
            head(x.float().flatten(1, 3), (x.shape[1], x.shape[2], x.shape[3]))
            for head, x in zip(heads, tokens, strict=True)
        ]


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
