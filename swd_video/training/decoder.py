"""Trains a fast decoder for the VAE of any family, from clips and their latents."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from swd_video.config import ConfigError, dump_config
from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.core.randomness import keyed_generator, keyed_global
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.latent_cache import LatentCache
from swd_video.data.manifest import Clip, read_manifest
from swd_video.files import alone_in, hash_file, write_text
from swd_video.models.base import VideoModel
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.loading import load_teacher
from swd_video.training.checkpoint_file import load_checkpoint, read_recipe, save_checkpoint
from swd_video.training.decoder_clips import DecoderClips
from swd_video.training.decoder_config import DecoderConfig
from swd_video.training.decoder_imitation import imitated_clips
from swd_video.training.decoder_report import HeldOutClips
from swd_video.training.decoder_step import DecoderTrainer
from swd_video.training.idle_parts import drop_text_encoders
from swd_video.training.open_clips import check_cache_apart, open_clips
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
_LAST_KEY = "train.discriminator.kept_share"
"""What may change, too, as it takes effect once all steps are taken: a finished run then writes another decoder."""


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
    check_cache_apart(config.data, out)
    with alone_in(out):
        report = _finished(config, out)
        return report if report is not None else _train(config, out)


def _finished(config: DecoderConfig, out: Path) -> dict[str, Any] | None:
    changed = check_same_run(config, out, CONFIG_FILE, _FREE_KEYS | {_LAST_KEY})
    path = out / REPORT_FILE
    if _LAST_KEY in changed or not path.is_file() or not (out / DECODER_FILE).is_file():
        return None
    made_of = StreamingDecoder.load(out / DECODER_FILE).made_of or {}
    check_made_of(out, made_of, known_now(lambda: {"vae": fingerprint_vae(config.model)}, config.data.cache))
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # damaged: the last checkpoint says the same, and all is written again
    return report


def _settings(config: DecoderConfig) -> dict[str, Any]:
    """What of a config the weights follow from, beside model and clips."""
    kept = {"seed", "grid", "decoder", "train", "held_out"}
    settings = config.model_dump(mode="json", include=kept)
    for section, key in (free.split(".") for free in _FREE_KEYS):
        settings.get(section, {}).pop(key, None)
    return settings


def _of_steps(made_of: dict[str, Any]) -> dict[str, Any]:
    """What of a decoder's record its steps follow from: all of it, whatever share of them is kept in the end."""
    made_of = deepcopy(made_of)
    if second := made_of["settings"]["train"]["discriminator"]:
        second["kept_share"] = 1.0
    return made_of


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
    imitated = None
    if imitate is not None:
        dtype = getattr(torch, config.load.dtype)
        imitated = imitated_clips(imitate, model, grid, config.seed, out, device=device, dtype=dtype)
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
    trainer = DecoderTrainer(config, decoder, pairs, device)
    recipe = {"made_of": json.dumps(_of_steps(decoder.made_of or {}), sort_keys=True)}
    check_made_of(out, json.loads(read_recipe(out).get("made_of", "{}")), decoder.made_of or {})
    done = load_checkpoint(out, trainer.state, recipe)
    (out / REPORT_FILE).unlink(missing_ok=True)  # of another decoder
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
        trained = _Stretches(manifest)
        if both := next((clip for clip in others if trained.show_some_of(clip)), None):
            raise ConfigError(
                f"held_out.manifest: {both.path} is in data.manifest as well, and so trained on; name others, or null "
                "to keep some back."
            )
        order = torch.randperm(len(others), generator=generator).tolist()
        return set(), [others[place] for place in order[: chosen.count]]
    places = torch.randperm(len(clips), generator=generator)[: chosen.count].tolist()
    lines = [manifest[int(key)] for key in clips.keys]
    held_out = [lines[place] for place in places]
    # Its other captions, and stretches that overlap with it, would show what is held back.
    shown = _Stretches(held_out)
    kept_back = {place for place, clip in enumerate(lines) if shown.show_some_of(clip)}
    return kept_back, held_out


class _Stretches:
    """What some clips show of their files."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._spans: dict[Path, list[tuple[float, float]]] = {}
        for clip in clips:
            self._spans.setdefault(clip.path.resolve(), []).append(_span(clip))

    def show_some_of(self, clip: Clip) -> bool:
        """Whether they have pictures in common with another."""
        start, end = _span(clip)
        return any(first < end and start < last for first, last in self._spans.get(clip.path.resolve(), ()))


def _span(clip: Clip) -> tuple[float, float]:
    return float(clip.start), math.inf if clip.end is None else float(clip.end)


def _run(trainer: DecoderTrainer, done: int, shown: HeldOutClips, save: Callable[[int], None]) -> None:
    settings = trainer.config.train
    with tqdm(total=trainer.steps, initial=done, desc="decoder", unit="step", file=sys.stderr) as bar:
        for step, batch in zip(
            range(done, trainer.steps), trainer.batches(range(done, trainer.steps)), strict=True
        ):
            losses = trainer.step(step, batch)
            bar.set_postfix_str("  ".join(f"{name} {value:.4f}" for name, value in losses.items()), False)
            bar.update()
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == trainer.steps:
                save(step + 1)
            if settings.sample_every and (step + 1) % settings.sample_every == 0:
                shown.write_samples(trainer.decoder, f"step_{step + 1:08d}")
