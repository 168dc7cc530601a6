"""One step of a decoder's training: it comes nearer to clips, and then deceives a discriminator."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from swd_video.config import ConfigError
from swd_video.core.decoder import StreamingDecoder
from swd_video.core.randomness import keyed_generator, keyed_global
from swd_video.losses.gan import hinge_discriminator_loss, hinge_student_loss
from swd_video.losses.reconstruction import feature_loss, reconstruction_loss
from swd_video.models.pixel_encoders import PixelEncoder
from swd_video.objectives.objective import known_blocks
from swd_video.training.decoder_clips import DecoderBatch, DecoderClips
from swd_video.training.decoder_config import DecoderConfig, DiscriminatorConfig, SeenFeaturesConfig
from swd_video.training.decoder_discriminator import FeatureDiscriminator, FrameDiscriminator
from swd_video.training.finite import check_gradient, check_losses
from swd_video.training.muon import Muon
from swd_video.training.optimizers import learning_rate_share, set_learning_rates

_MUON_WEIGHT_DECAY = 0.1
"""Without, steps of constant size make kernels grow for as long as it runs: to blocks with gains in the thousands."""


class DecoderTrainer:
    """The networks of a run, and how they take a step.

    Attributes:
        config: of the run.
        decoder: what learns.
        steps: of both parts.
        state: what a checkpoint keeps.
    """

    def __init__(
        self, config: DecoderConfig, decoder: StreamingDecoder, pairs: DecoderClips, device: torch.device
    ) -> None:
        train, second = config.train, config.train.discriminator
        self.config, self.decoder, self._pairs, self._device = config, decoder, pairs, device
        self.steps = train.steps + (0 if second is None else second.steps)
        features = train.features
        self._imitated = train.num_imitated
        self._network = None if features is None else _load("train.features", features, device)
        self._optimizers = _optimizers(decoder, train.muon_lr, train.lr)
        self.state: dict[str, Any] = {"decoder": decoder}
        self.state |= {f"optimizer_{number}": one for number, one in enumerate(self._optimizers)}
        if second is not None:
            self._discriminator = _new_discriminator(config, second, decoder.layout.channels, device)
            self._its_optimizer = torch.optim.AdamW(
                self._discriminator.parameters(), lr=second.lr, betas=(0.5, 0.95), weight_decay=0.0
            )
            self._before = deepcopy(decoder).requires_grad_(False)
            self.state |= {"discriminator": self._discriminator, "its_optimizer": self._its_optimizer}
            self.state |= {"before": self._before}

    def batches(self, steps: range) -> Iterator[DecoderBatch]:
        """What the steps are to see."""
        train, seed = self.config.train, self.config.seed

        def draw(step: int) -> DecoderBatch:
            return self._pairs.draw(step, seed, train.batch_size, train.frames, train.crop, self._imitated)

        return self._pairs.ahead(draw, steps)

    def step(self, step: int, batch: DecoderBatch) -> dict[str, float]:
        """Take one step, and say what it lost."""
        train, second = self.config.train, self._second(step)
        latents, pixels = batch.latents.to(self._device), batch.pixels.to(self._device)
        if second is not None and step == train.steps:
            self._before.load_state_dict(self.decoder.state_dict())
        with self._precision():
            decoded = self.decoder(latents, batch.is_start).float()
        known = latents
        if not batch.is_start:
            # Nothing before the first latent frame is known here, as it is in a clip.
            skipped = self.decoder.layout.temporal
            decoded, pixels, known = decoded[:, :, skipped:], pixels[:, :, skipped:], latents[:, :, 1:]
        clips = train.batch_size if second is None else train.batch_size - self._imitated
        loss = reconstruction_loss(decoded[:clips], pixels[:clips], train.differences)
        if clips < train.batch_size:
            # The VAE's pictures of these say where things are and of what colour, and not how crisp they ought to be.
            coarse, shown = (_coarse(seen[clips:]) for seen in (decoded, pixels))
            loss = loss + reconstruction_loss(coarse, shown, train.differences)
        losses = {"error": loss.item()}
        if self._network is not None and train.features is not None:
            seen = self._feature_error(decoded[:clips], pixels[:clips])
            loss, losses["features"] = loss + train.features.weight * seen, seen.item()
        check_losses(step, 0, losses)
        places = None
        if second is not None and decoded.shape[2] > 2:
            places = self._places(step, known, decoded, batch.is_start)
            known = torch.cat([known[:clips], torch.zeros_like(known[clips:])])
            loss = loss + second.weight * self._deceive(known, decoded, places)
        _move(self._optimizers, loss, self._rate(step), step, "decoder", self.decoder)
        if places is not None:
            losses["discriminator"] = self._judge(step, known, pixels[:clips], decoded.detach(), places)
        return losses

    def _second(self, step: int) -> DiscriminatorConfig | None:
        """The second part, where it has begun."""
        return self.config.train.discriminator if step >= self.config.train.steps else None

    def _rate(self, step: int) -> float:
        """Share of the learning rates."""
        train, second = self.config.train, self._second(step)
        if second is None:
            return learning_rate_share(step, train.steps, train.lr_warmup_steps)
        share = learning_rate_share(step - train.steps, second.steps, train.lr_warmup_steps)
        return second.decoder_lr_share * share

    @torch.no_grad()
    def settle(self) -> None:
        """Once all steps are taken: go back as far as `train.discriminator.kept_share` says."""
        second = self.config.train.discriminator
        if second is not None:
            for weight, before in zip(self.decoder.parameters(), self._before.parameters(), strict=True):
                weight.copy_(torch.lerp(before, weight, second.kept_share))

    def _feature_error(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        features = self.config.train.features
        assert features is not None and self._network is not None
        with torch.no_grad():
            original = self._network.features(pixels, features.block)
        pairs = zip(self._network.features(decoded, features.block), original, strict=True)
        return torch.stack([feature_loss(ours, theirs) for ours, theirs in pairs]).mean()

    def _deceive(self, latents: Tensor, decoded: Tensor, places: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        """The loss of a decoder that is seen through; no weight of the discriminator gets a gradient."""
        with _frozen(self._discriminator), self._precision():
            logits = self._discriminator(latents, decoded, *places)
        return torch.stack([hinge_student_loss(one) for one in logits]).mean()

    def _judge(
        self, step: int, latents: Tensor, pixels: Tensor, decoded: Tensor, places: tuple[Tensor, Tensor]
    ) -> float:
        """Pixels are of the first clips; clips that are imitated have none, and are judged without their latents."""
        with self._precision():
            made = self._discriminator(latents, decoded, *places)
            real = self._discriminator(latents[: len(pixels)], pixels, *places)
            if self._discriminator.sees_latents and len(pixels) < len(decoded):
                nothing = torch.zeros_like(latents[: len(pixels)])
                unknown = self._discriminator(nothing, pixels, *places)
                real = [torch.cat(both) for both in zip(real, unknown, strict=True)]
        pairs = zip(real, made, strict=True)
        loss = torch.stack([hinge_discriminator_loss(true, false) for true, false in pairs]).mean()
        check_losses(step, 0, {"discriminator": loss.item()})
        _move([self._its_optimizer], loss, 1.0, step, "discriminator", self._discriminator)
        return loss.item()

    def _places(self, step: int, latents: Tensor, decoded: Tensor, is_start: bool) -> tuple[Tensor, Tensor]:
        """Frames to judge beside their neighbours, and the latent frames that hold them."""
        second = self.config.train.discriminator
        assert second is not None
        generator = keyed_generator(self.config.seed, "decoder places", step)
        middles = 1 + torch.randperm(decoded.shape[2] - 2, generator=generator)[: second.frames]
        temporal = self.decoder.layout.temporal
        holders = (middles + temporal - 1) // temporal if is_start else middles // temporal
        return middles.to(latents.device), holders.to(latents.device)

    def _precision(self) -> torch.autocast:
        enabled = self.config.train.mixed_precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)


def _new_discriminator(
    config: DecoderConfig, section: DiscriminatorConfig, channels: int, device: torch.device
) -> FrameDiscriminator | FeatureDiscriminator:
    """One with random weights, for latents of so many channels."""
    seen = section.features
    network = None if seen is None else _load("train.discriminator.features", seen, device)
    with keyed_global(config.seed, "discriminator"):
        if network is None or seen is None:
            return FrameDiscriminator(channels, section.width).to(device)
        return FeatureDiscriminator(network, seen.block, section.width).to(device)


def _load(key: str, features: SeenFeaturesConfig, device: torch.device) -> PixelEncoder:
    try:
        network = features.encoder.load(device)
    except ValueError as error:
        raise ConfigError(f"{key}.encoder: {error}") from None
    known_blocks(f"{key}.block", features.block, network.name, network.num_blocks)
    return network


def _optimizers(decoder: nn.Module, muon_lr: float | None, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for convolutions between hidden channels, where it has a rate; AdamW for everything else."""
    inner = {f"{name}.weight" for name in ("stem", "out")}
    kernels = [
        weight
        for name, weight in decoder.named_parameters()
        if muon_lr is not None and weight.ndim == 4 and name not in inner
    ]
    chosen = {id(weight) for weight in kernels}
    others = [weight for weight in decoder.parameters() if id(weight) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    ]
    if muon_lr is not None:
        optimizers.append(Muon(kernels, lr=muon_lr, weight_decay=_MUON_WEIGHT_DECAY))
    return optimizers


def _move(
    optimizers: list[torch.optim.Optimizer],
    loss: Tensor,
    rate: float,
    step: int,
    name: str,
    network: nn.Module,
) -> None:
    set_learning_rates(optimizers, rate)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    weights = dict(network.named_parameters())
    gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
    check_gradient(step, name, float(get_total_norm(gradients)), weights)
    for optimizer in optimizers:
        optimizer.step()


def _coarse(pixels: Tensor) -> Tensor:
    return nn.functional.avg_pool3d(pixels, (1, 4, 4), stride=(1, 2, 2))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Within the context no weight of the network gets a gradient; what goes through it does."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
