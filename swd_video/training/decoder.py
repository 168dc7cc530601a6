"""Trains a fast decoder for the VAE of any family, from clips and their latents."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from swd_video.config import ConfigError, dump_config
from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_generator, keyed_global
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.latent_cache import LatentCache
from swd_video.data.manifest import Clip, read_manifest
from swd_video.files import alone_in, hash_file, write_text
from swd_video.losses.gan import hinge_discriminator_loss, hinge_student_loss
from swd_video.losses.reconstruction import feature_loss, reconstruction_loss
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.loading import load_teacher
from swd_video.models.pixel_encoders import PixelEncoder
from swd_video.objectives.objective import known_blocks
from swd_video.training.checkpoint_file import load_checkpoint, read_recipe, save_checkpoint
from swd_video.training.decoder_clips import DecoderBatch, DecoderClips
from swd_video.training.decoder_config import DecoderConfig, DiscriminatorConfig, SeenFeaturesConfig
from swd_video.training.decoder_discriminator import FeatureDiscriminator, FrameDiscriminator
from swd_video.training.decoder_imitation import IMITATED_FILE, imitated_clips
from swd_video.training.decoder_report import HeldOutClips
from swd_video.training.finite import check_losses
from swd_video.training.idle_parts import drop_text_encoders
from swd_video.training.muon import Muon
from swd_video.training.open_clips import open_clips
from swd_video.training.optimizers import learning_rate_share, set_learning_rates
from swd_video.training.provenance import (
    CONFIG_FILE,
    check_made_of,
    check_same_run,
    digests_of_clips,
    known_now,
)

DECODER_FILE = "decoder.safetensors"
REPORT_FILE = "report.json"
_FREE_KEYS = {
    "data.encode_batch_size",
    "train.checkpoint_every",
    "train.sample_every",
    "train.clips_in_memory",
}
"""What may change between a start and a restart: no weight follows from it."""
_MUON_WEIGHT_DECAY = 0.1
"""Without, steps of constant size make kernels grow for as long as it runs: to blocks with gains in the thousands."""


def distill_decoder(config: DecoderConfig, out: Path) -> dict[str, Any]:
    """Train a decoder, as `swd-video decoder` does: a run that was stopped goes on, a finished one stays as it is.

    Args:
        config: all of it.
        out: folder of the run: `decoder.safetensors`, `report.json`, `config.yaml`, `samples/`, `checkpoint.pt`.

    Returns:
        What `report.json` holds; see `HeldOutClips.report`.

    Raises:
        ValueError: for wrong input, in one line.
        FolderInUseError: if another run trains there.
        NonFiniteError: when a loss is not finite; the last checkpoint stays.
    """
    with alone_in(out):
        report = _finished(config, out)
        return report if report is not None else _train(config, out)


def _finished(config: DecoderConfig, out: Path) -> dict[str, Any] | None:
    check_same_run(config, out, CONFIG_FILE, _FREE_KEYS)
    path = out / REPORT_FILE
    if not path.is_file() or not (out / DECODER_FILE).is_file():
        return None
    made_of = StreamingDecoder.load(out / DECODER_FILE).made_of or {}
    check_made_of(out, made_of, known_now(lambda: {"vae": fingerprint_vae(config.model)}, config.data.cache))
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _settings(config: DecoderConfig) -> dict[str, Any]:
    """What of a config the weights follow from, beside model and clips."""
    kept = {"seed", "grid", "decoder", "train", "held_out"}
    settings = config.model_dump(mode="json", include=kept)
    for section, key in (free.split(".") for free in _FREE_KEYS):
        settings.get(section, {}).pop(key, None)
    return settings


def _networks_seen(config: DecoderConfig) -> list[dict[str, Any]]:
    """Records of the networks that its training looks through; none of them may judge what it decodes."""
    second = config.train.discriminator
    sections = (config.train.features, None if second is None else second.features)
    records = [section.encoder.record for section in sections if section is not None]
    return [asdict(record) for record in records if record is not None]


def _train(config: DecoderConfig, out: Path) -> dict[str, Any]:
    manifest = _read_manifest(config)
    accelerator = Accelerator(mixed_precision="no")
    device = accelerator.device
    model = load_teacher(config.model, dtype=getattr(torch, config.load.dtype), options=config.load)
    layout = _layout(config, model)
    grid = LatentSize.parse(config.grid)
    schedule = ScaleSchedule((Stage(1.0, grid),))
    clips = open_clips(config.data, config.model, config.load.adapter, schedule, model, accelerator)
    drop_text_encoders(model)
    model.vae.to(device, torch.float32)
    kept_back, held_out = _hold_out(config, clips, manifest)
    imitate = config.train.imitate
    if not (out / CONFIG_FILE).is_file():  # left by a start that failed, perhaps at another config
        (out / IMITATED_FILE).unlink(missing_ok=True)
    imitated = None if imitate is None else imitated_clips(imitate, model, grid, config.seed, out)
    upscale, in_memory = config.decoder.upscale, config.train.clips_in_memory
    pairs = DecoderClips(clips, manifest, kept_back, grid, model.spec, upscale, in_memory, imitated)
    shown = HeldOutClips(model, held_out, pairs.size, config.decoder.upscale, out / "samples")
    vae = fingerprint_vae(config.model)
    made_of = {"settings": _settings(config), "vae": vae} | digests_of_clips(clips.index)
    if imitated is not None:
        made_of["imitated"] = imitated.digest
    if through := _networks_seen(config):
        made_of["trained_through"] = through
    decoder = _new_decoder(config, layout, vae, made_of).to(device)
    trainer = _Trainer(config, decoder, pairs, device)
    recipe = {"made_of": json.dumps(decoder.made_of, sort_keys=True)}
    check_made_of(out, json.loads(read_recipe(out).get("made_of", "{}")), decoder.made_of or {})
    done = load_checkpoint(out, trainer.state, recipe)
    write_text(out / CONFIG_FILE, dump_config(config), durable=True)
    _run(trainer, done, shown, lambda step: save_checkpoint(out, step, trainer.state, recipe))
    trainer.settle()
    decoder.save(out / DECODER_FILE)
    return shown.report(StreamingDecoder.load(out / DECODER_FILE).to(device), out / REPORT_FILE)


def _read_manifest(config: DecoderConfig) -> list[Clip]:
    if config.data.manifest is None:
        raise ConfigError(
            "data.manifest: got none, expected a manifest: a decoder learns from the clips, not from latents alone."
        )
    return read_manifest(config.data.manifest)


def _layout(config: DecoderConfig, model: VideoModel) -> DecoderLayout:
    shape, spec = config.decoder, model.spec
    try:
        return DecoderLayout.for_compression(
            spec.compression, spec.latent_channels, shape.widths, shape.blocks, shape.patch, shape.upscale
        )
    except ValueError as error:
        raise ConfigError(f"decoder.{error}") from None


def _new_decoder(
    config: DecoderConfig, layout: DecoderLayout, vae: str, made_of: dict[str, Any]
) -> StreamingDecoder:
    """One with random weights, or with those of `train.start`, which is recorded."""
    start, weights = config.train.start, None
    if start is not None:
        trained = _read_trained(Path(start), layout, vae)
        weights = trained.state_dict()
        through = (trained.made_of or {}).get("trained_through", []) + made_of.get("trained_through", [])
        made_of = made_of | {"started_from": hash_file(Path(start))}
        made_of |= {"trained_through": through} if through else {}
    with keyed_global(config.seed, "decoder"):
        decoder = StreamingDecoder(layout, vae, made_of)
    if weights is not None:
        decoder.load_state_dict(weights)
    return decoder


def _read_trained(path: Path, layout: DecoderLayout, vae: str) -> StreamingDecoder:
    try:
        trained = StreamingDecoder.load(path)
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    shape, wanted = asdict(trained.layout), asdict(layout)
    for name in wanted:
        if shape[name] != wanted[name]:
            raise ConfigError(
                f"train.start: {path} has {name} {shape[name]}, expected {wanted[name]}; name another, or null."
            )
    if trained.vae not in (vae, ""):  # "" where it was not taken
        raise ConfigError(
            f"train.start: {path} belongs to another VAE than the model's; name another, or null."
        )
    return trained


def _hold_out(config: DecoderConfig, clips: LatentCache, manifest: list[Clip]) -> tuple[set[int], list[Clip]]:
    """Places in the cache that are not trained on, and the clips by which decoders are compared."""
    chosen = config.held_out
    generator = keyed_generator(config.seed, "held out")
    if chosen.manifest is not None:
        others = read_manifest(chosen.manifest)
        order = torch.randperm(len(others), generator=generator).tolist()
        return set(), [others[place] for place in order[: chosen.count]]
    places = torch.randperm(len(clips), generator=generator)[: chosen.count].tolist()
    return set(places), [manifest[int(clips.get(place, [])["key"])] for place in places]


def _run(trainer: "_Trainer", done: int, shown: HeldOutClips, save: Callable[[int], None]) -> None:
    settings = trainer.config.train
    with tqdm(total=trainer.steps, initial=done, desc="decoder", unit="step", file=sys.stderr) as bar:
        for step, batch in zip(
            range(done, trainer.steps), trainer.batches(range(done, trainer.steps)), strict=True
        ):
            losses = trainer.step(step, batch)
            check_losses(step, 0, losses)
            bar.set_postfix_str("  ".join(f"{name} {value:.4f}" for name, value in losses.items()), False)
            bar.update()
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == trainer.steps:
                save(step + 1)
            if settings.sample_every and (step + 1) % settings.sample_every == 0:
                shown.write_samples(trainer.decoder, f"step_{step + 1:08d}")


class _Trainer:
    """The networks of a run, and how they take a step."""

    def __init__(
        self, config: DecoderConfig, decoder: StreamingDecoder, pairs: DecoderClips, device: torch.device
    ) -> None:
        train, second = config.train, config.train.discriminator
        self.config, self.decoder, self._pairs, self._device = config, decoder, pairs, device
        self.steps = train.steps + (0 if second is None else second.steps)
        features = train.features
        self._imitated = 0 if train.imitate is None else round(train.imitate.share * train.batch_size)
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
        train, second = self.config.train, self.config.train.discriminator
        latents, pixels = batch.latents.to(self._device), batch.pixels.to(self._device)
        judged = second is not None and step >= train.steps
        if judged:
            assert second is not None
            if step == train.steps:
                self._before.load_state_dict(self.decoder.state_dict())
            rate = second.decoder_lr_share * learning_rate_share(
                step - train.steps, second.steps, train.lr_warmup_steps
            )
        else:
            rate = learning_rate_share(step, train.steps, train.lr_warmup_steps)
        with self._precision():
            decoded = self.decoder(latents, batch.is_start).float()
        known = latents
        if not batch.is_start:
            # Nothing before the first latent frame is known here, as it is in a clip.
            skipped = self.decoder.layout.temporal
            decoded, pixels, known = decoded[:, :, skipped:], pixels[:, :, skipped:], latents[:, :, 1:]
        clips = train.batch_size - self._imitated if judged else train.batch_size
        loss = reconstruction_loss(decoded[:clips], pixels[:clips], train.differences)
        if clips < train.batch_size:
            # The VAE's pictures of these say where things are and of what colour, and not how crisp they ought to be.
            coarse, shown = (_coarse(seen[clips:]) for seen in (decoded, pixels))
            loss = loss + reconstruction_loss(coarse, shown, train.differences)
        losses = {"error": loss.item()}
        if self._network is not None and train.features is not None:
            seen = self._feature_error(decoded[:clips], pixels[:clips])
            loss, losses["features"] = loss + train.features.weight * seen, seen.item()
        deceives = judged and second is not None and decoded.shape[2] > 2
        if deceives:
            assert second is not None
            places = self._places(step, known, decoded, batch.is_start)
            known = torch.cat([known[:clips], torch.zeros_like(known[clips:])])
            with _frozen(self._discriminator), self._precision():
                logits = self._discriminator(known, decoded, *places)
            deceived = torch.stack([hinge_student_loss(one) for one in logits]).mean()
            loss = loss + second.weight * deceived
        _move(self._optimizers, loss, rate)
        if deceives:
            losses["discriminator"] = self._judge(known, pixels[:clips], decoded.detach(), places)
        return losses

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

    def _judge(
        self, latents: Tensor, pixels: Tensor, decoded: Tensor, places: tuple[Tensor, Tensor]
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
        _move([self._its_optimizer], loss, 1.0)
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
        return FeatureDiscriminator(network, seen.block, section.width, device).to(device)


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


def _move(optimizers: list[torch.optim.Optimizer], loss: Tensor, rate: float) -> None:
    set_learning_rates(optimizers, rate)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
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
