"""What a training step costs, counted from what it says that it runs: operations, and what memory follows from."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from swd_video.config import ConfigError, Section
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import Flops
from swd_video.cost.networks import (
    Carried,
    Decoder,
    EncoderOfPixels,
    Heads,
    Kept,
    Network,
    NoSuchBlockError,
    Transformer,
    planned_decoder,
)
from swd_video.models.lora import CRITIC, STUDENT
from swd_video.objectives.encoders import PixelEncoderConfig
from swd_video.objectives.passes import Pass
from swd_video.training.config import DistillConfig, LoraTrainConfig, UpsamplerConfig
from swd_video.training.passes import step_passes

Kind = Literal["full", "lora"]


@dataclass(frozen=True)
class Sizes:
    """What memory follows from, for one kind of training.

    Attributes:
        teacher: weights of the transformer, or of both where there are two.
        trainable: the student's weights that change.
        trainable_matrices: those of them that Muon takes.
        critic: weights of the critic's additions.
        heads: weights of the discriminator.
        vae: weights of the VAE, where clips are decoded in training.
        others: weights of further networks, which do not change.
        stages: what autograd keeps of the student's pass and of those that lead back to its clips, of each stage that
            may keep most.
        learners: of the pass of each network that learns beside it.
    """

    teacher: int
    trainable: int
    trainable_matrices: int = 0
    critic: int = 0
    heads: int = 0
    vae: int = 0
    others: int = 0
    stages: tuple[tuple[Kept, Kept], ...] = ()
    learners: tuple[Kept, ...] = ()


@contextmanager
def _block_of(part: str) -> Iterator[None]:
    try:
        yield
    except NoSuchBlockError as error:
        raise ValueError(f"loss.{part}.block: {error}") from None


class StepCost:
    """Counts the passes of a config's steps, each once, when first asked for.

    Raises:
        ValueError: from any method, if additions or blocks that the config names do not fit the model.
    """

    def __init__(self, config: DistillConfig, architecture: Architecture) -> None:
        self.config, self.architecture = config, architecture
        self.schedule: ScaleSchedule = config.scale_schedule()
        self.network = cache(self._network)
        self.sizes = cache(self._sizes)

    def passes(self, stage_index: int) -> dict[str, list[Pass]]:
        """What a step runs for each clip of a stage, by what it is for."""
        parts = step_passes(self.config, self.architecture.spec, stage_index)
        last = self.architecture.spec.num_blocks - 1
        for name, passes in parts.items():
            block = (
                max((one.depth or 0 for one in passes if one.network in ("teacher", "critic")), default=0) - 1
            )
            if block > last:
                raise ValueError(
                    f"loss.{name}.block: {block} does not exist; {self.architecture.name} has blocks 0 to {last}."
                )
        return parts

    def counted(self, stage_index: int, kind: Kind) -> dict[str, list[tuple[Pass, Flops]]]:
        """Every pass of a stage with its operations for one clip, by what it is for."""
        counted = {}
        for name, passes in self.passes(stage_index).items():
            with _block_of(name):
                counted[name] = [(one, self.network(one.network, kind).flops(one)) for one in passes]
        return counted

    def _network(self, name: str | Section, kind: Kind) -> Network:
        """The network that `Pass.network` names, in one kind of training."""
        architecture, loss = self.architecture, self.config.loss
        if name == "student" and kind == "lora":
            train = self.config.train if isinstance(self.config.train, LoraTrainConfig) else LoraTrainConfig()
            targets = train.targets or architecture.model.lora_targets
            return Transformer(architecture, (train.rank, targets, STUDENT))
        teaches = name in ("teacher", "weaker")
        if kind != "full" or teaches:
            # What the student is makes no difference to others; a copy of all weights costs what they do.
            return self.network("student" if teaches else name, "full")
        if name == "student":
            return Transformer(architecture)
        if name == "critic":
            assert loss.dmd is not None
            targets = loss.dmd.critic_targets or architecture.model.lora_targets
            return Transformer(architecture, (loss.dmd.critic_rank, targets, CRITIC))
        if name == "heads":
            assert loss.gan is not None
            try:
                encoder, blocks = loss.gan.see("loss.gan", architecture.spec, torch.device("meta"))
            except ConfigError:
                return self._nothing()  # its encoder, which is counted before, has said why
            with torch.device("meta"):
                heads = loss.gan.heads(encoder, blocks)
            return Heads(heads, encoder, blocks)
        if name == "vae_decoder":
            return Decoder(architecture)
        if name == "decoder":
            assert isinstance(self.config.load.decoder, Path)
            return planned_decoder(self.config.load.decoder, architecture.model)
        if isinstance(name, UpsamplerConfig):
            channels = architecture.spec.latent_channels
            return Carried(name.untrained(channels), channels)
        assert isinstance(name, PixelEncoderConfig), name
        try:
            return EncoderOfPixels(name.load(torch.device("meta")), architecture)
        except ValueError as error:
            return self._uncounted(error)

    def _uncounted(self, error: ValueError) -> Network:
        print(f"warning: loss: not counted: {error}", file=sys.stderr)
        return self._nothing()

    def _nothing(self) -> Network:
        """What costs nothing."""
        return Carried(nn.Identity(), self.architecture.spec.latent_channels)

    def _sizes(self, kind: Kind, bf16: bool, checkpointing: bool) -> Sizes:
        """What memory follows from, in one precision, with gradient checkpointing or without."""
        architecture, transformers = self.architecture, self.architecture.transformers
        stages = [self.passes(index) for index in range(len(self.schedule))]
        weights = {"critic": 0, "heads": 0, "vae_decoder": 0, "others": 0}
        kept: list[dict[str, list[Kept]]] = []
        counted: list[set[str]] = []
        for parts in reversed(stages):
            named = {part for part, passes in parts.items() if passes}
            # Grids never shrink: a later stage that runs all of these, too, takes more.
            if not any(named <= others for others in counted):
                counted.append(named)
                kept.append(self._kept(parts, kind, bf16, checkpointing))
        everywhere = [one for parts in stages for passes in parts.values() for one in passes]
        for name in dict.fromkeys(one.network for one in everywhere):
            if name not in ("student", "teacher"):
                part = name if isinstance(name, str) and name in weights else "others"
                weights[part] += self.network(name, kind).weights
        student = self.network("student", kind)
        return Sizes(
            teacher=sum(architecture.num_parameters[name] for name in transformers),
            trainable=len(transformers) * student.weights,
            trainable_matrices=len(transformers) * student.block_matrices,
            critic=len(transformers) * weights["critic"],
            heads=weights["heads"],
            vae=weights["vae_decoder"],
            others=weights["others"],
            stages=tuple((sum(one["student"], Kept()), sum(one["input"], Kept())) for one in kept),
            learners=tuple(learner for one in kept for learner in one["weights"]),
        )

    def _kept(
        self, parts: Mapping[str, Sequence[Pass]], kind: Kind, bf16: bool, checkpointing: bool
    ) -> dict[str, list[Kept]]:
        """What autograd keeps of every pass of a stage that has a gradient, by what that is for.

        Two passes that are alike keep it twice: each objective looks at the clips for itself, and one backward pass
        goes through all of them at the end.
        """
        kept: dict[str, list[Kept]] = {"student": [], "input": [], "weights": []}
        for part, passes in parts.items():
            for one in passes:
                if one.gradient != "none":
                    network = self.network(one.network, kind)
                    role = "student" if one.network == "student" else one.gradient
                    with _block_of(part):
                        kept[role].append(network.kept(one, bf16=bf16, checkpointing=checkpointing))
        return kept
