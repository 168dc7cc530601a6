"""The network that takes clips from a stage's grid to the next: trained on the cached clips where that is missing."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from swd_video.config import ConfigError
from swd_video.core.randomness import keyed_choice, keyed_generator, keyed_global
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import GridPair, LatentUpsampler, growing_pairs
from swd_video.data.latent_cache import LatentCache, digest_tensors
from swd_video.training.config import UpsamplerConfig
from swd_video.training.optimizers import set_learning_rates
from swd_video.training.provenance import difference, digests_of_clips

UPSAMPLER_FILE = "upsampler.safetensors"
"""In the folder of a run, its own."""

_WARMUP_STEPS = 50


def open_upsampler(
    config: UpsamplerConfig | None,
    schedule: ScaleSchedule,
    clips: LatentCache,
    accelerator: Accelerator,
    folder: Path,
) -> LatentUpsampler | None:
    """The upsampler of a config, on its device, trained by the first process where there is none.

    One that lies in the run's folder is its own, wherever others lie.

    Raises:
        ConfigError: if no stage is larger than the one before, or the config names a file that is broken or that was
            trained otherwise than the config says.
    """
    if config is None:
        return None
    pairs, own = growing_pairs(schedule), folder / UPSAMPLER_FILE
    if not pairs:
        raise ConfigError("upsampler: no stage of the schedule is larger than the one before; leave it out.")
    made_of = _made_of(config, pairs, clips)
    path = own if config.file is None or _is_made_of(own, made_of) else Path(config.file)
    if accelerator.is_main_process and (not path.exists() or (path == own and not _is_made_of(own, made_of))):
        train_upsampler(config, pairs, clips, accelerator.device).save(path)
    accelerator.wait_for_everyone()
    try:
        upsampler = LatentUpsampler.load(path)
    except ValueError as error:
        raise ConfigError(f"upsampler.file: {error}") from None
    _check(upsampler, path, made_of)
    return upsampler.to(accelerator.device)


def digest_of_upsampler(upsampler: LatentUpsampler | None) -> str | None:
    """Of its weights."""
    if upsampler is None:
        return None
    return digest_tensors({name: value.cpu() for name, value in upsampler.state_dict().items()}, {})


def train_upsampler(
    config: UpsamplerConfig, pairs: Sequence[GridPair], clips: LatentCache, device: torch.device
) -> LatentUpsampler:
    """Train one by the squared error of its latents against those of the same clips on the larger grid.

    Each pair of grids is drawn as often; the clips are cached on all of them.
    """
    with keyed_global(config.seed, "upsampler"):
        channels = clips.get(0, [pairs[0][0]])["latents"][pairs[0][0]].shape[0]
        encoders = clips.index["encoders"]
        made_of = _made_of(config, pairs, clips)
        upsampler = LatentUpsampler(channels, config.width, config.depth, pairs, encoders, made_of).to(device)
    optimizer = torch.optim.AdamW(upsampler.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    with tqdm(total=config.steps, desc="upsampler", unit="step", file=sys.stderr) as bar:
        for step in range(config.steps):
            before, after = pairs[keyed_choice([1.0] * len(pairs), config.seed, "upsampler pair", step)]
            generator = keyed_generator(config.seed, "upsampler clips", step)
            chosen = torch.randperm(len(clips), generator=generator)[: config.batch_size].tolist()
            latents = clips.batch(chosen, [before, after]).latents
            small, large = (latents[grid].to(device, torch.float32) for grid in (before, after))
            loss = relative_error(upsampler(small, after), large)
            set_learning_rates([optimizer], _rate(step, config.steps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not torch.isfinite(loss) or not all(w.isfinite().all() for w in upsampler.parameters()):
                raise ValueError(
                    f"upsampler.lr: its training left all numbers at step {step + 1} of {config.steps}, with a rate of "
                    f"{config.lr:g}; take a lower one."
                )
            bar.set_postfix_str(f"error {loss.item():.4f}", refresh=False)
            bar.update()
    return upsampler


def relative_error(
    got: Float[Tensor, "batch channels *size"], expected: Float[Tensor, "batch channels *size"]
) -> Float[Tensor, ""]:
    """Mean squared error over the variance of what was expected: 1 for a constant."""
    return (got - expected).square().mean() / expected.var()


def _rate(step: int, steps: int) -> float:
    warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def _is_made_of(path: Path, made_of: dict[str, Any]) -> bool:
    try:
        return LatentUpsampler.load(path).made_of == made_of
    except ValueError:
        return False


def _check(upsampler: LatentUpsampler, path: Path, made_of: dict[str, Any]) -> None:
    cure = "Give upsampler.file another name, or leave it out, to train one for this run."
    there = upsampler.made_of
    if there is None:
        raise ConfigError(f"upsampler.file: {path} does not say how it was trained. {cure}")
    key = difference(there, made_of)
    if key is not None:
        raise ConfigError(
            f"upsampler.file: {path} was trained with another {key}: {there[key]} there, {made_of[key]} now. {cure}"
        )


def _made_of(config: UpsamplerConfig, pairs: Sequence[GridPair], clips: LatentCache) -> dict[str, Any]:
    """All that the weights follow from."""
    return {
        **config.model_dump(mode="json", exclude={"file"}),
        "pairs": [[str(grid) for grid in pair] for pair in pairs],
        "vae": clips.index["encoders"],
        **digests_of_clips(clips.index),
    }
