"""Train the VAE of pocket-wan: an `AutoencoderKLWan` of 8x in space and 4x in time.

    python -m tools.pocket.vae --out out/pocket/vae

Like Wan 2.2's, it folds 2x2 pixels into channels first, so that its convolutions run at half the size. The loss is
L1 on pixels and on their differences in space and time, a weak pull of the latents to zero, and, for a quarter of the
batches, the same loss between *resized* latents' decoding and resized pixels (EQ-VAE, arXiv 2502.09509): a scale-wise
student upsamples latents, so they had better behave like pictures. Convolutions are trained by Muon, the rest by
AdamW. Stopped at any moment, it goes on from its last checkpoint.

A larger one on a GPU, which stays as busy as it can with clips that lie on it:

    python -m tools.pocket.vae --out out/world/vae --size 33x128x128 --base-dim 48 --device cuda --threads 1 \
        --batch-size 32 --crop 64 --small 5x32x32 17x64x64 33x64x64 33x80x80 --steps 100000 --minutes 6
"""

import argparse
import copy
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.resize import resize_latents, resize_pixels
from swd_video.files import whole_folder, write_json
from swd_video.training.checkpoint_file import load_checkpoint, save_checkpoint
from swd_video.training.muon import Muon
from tools.pocket.corpus import CLIP_SIZE
from tools.pocket.pictures import composed_frames, save_sheet, to_pixels
from tools.pocket.recipes import Clock, autocast, fastest_precision, threaded_backward

# Noise on the latents while training. The posterior's own width starts at 1 and drowns the colours for hundreds of
# steps; a fixed one does not, and the network is taught to report it.
POSTERIOR_STD = 0.1
LATENT_CHANNELS = 32
BASE_DIM = 32
REPORT_NAME = "report.json"
CROP_PX = 48
SMALL_SIZES = (PixelSize(5, 48, 48), PixelSize(9, 48, 48), PixelSize(9, 64, 64), PixelSize(9, 80, 80))


def build_vae(base_dim: int = BASE_DIM) -> AutoencoderKLWan:
    """The untrained network: its residual branches start at zero, so that colours come first."""
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        is_residual=True,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
        if isinstance(module, torch.nn.Conv3d):  # 1.6 times as fast on a CPU
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch has it for 4-D alone
    return vae


@torch.no_grad()
def take_weights(vae: AutoencoderKLWan, trained: AutoencoderKLWan) -> None:
    """Start from a trained network of the same form with fewer latent channels; the new ones are not decoded yet."""
    old, new = trained.config.z_dim, vae.config.z_dim
    # The encoder gives all means, then all log-variances.
    places = {old: torch.arange(old), 2 * old: torch.cat([torch.arange(old), new + torch.arange(old)])}
    source = dict(trained.named_parameters())
    for name, weight in vae.named_parameters():
        if weight.shape == source[name].shape:
            weight.copy_(source[name])
            continue
        kept = [
            torch.arange(now) if now == before else places[before]
            for now, before in zip(weight.shape[:2], source[name].shape[:2], strict=True)
        ]
        weight[kept[0]] = 0  # old channels take nothing from new ones
        weight[torch.meshgrid(*kept, indexing="ij")] = source[name]


def build_optimizers(vae: AutoencoderKLWan, muon_lr: float, adamw_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions between hidden channels, AdamW for everything else."""
    kernels = [
        weight for weight in vae.parameters() if weight.ndim >= 4 and min(len(weight), weight[0].numel()) > 8
    ]
    chosen = {id(weight) for weight in kernels}
    others = [weight for weight in vae.parameters() if id(weight) not in chosen]
    return [
        Muon(kernels, lr=muon_lr, momentum=0.9, weight_decay=0.0),
        torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def draw_batch(
    frames: Tensor,
    rng: np.random.Generator,
    batch_size: int,
    small_share: float,
    crop_px: int = CROP_PX,
    small_sizes: Sequence[PixelSize] = SMALL_SIZES,
) -> Tensor:
    """Crops of all frames at full size or, for a share of the batches, whole clips at small sizes.

    Args:
        frames: uint8, clips x frames x height x width x 3.
        rng: what is drawn follows from it.
        batch_size: clips.
        small_share: of the batches.
        crop_px: height and width of a crop.
        small_sizes: of which one is drawn.
    """
    indices = torch.from_numpy(np.sort(rng.choice(len(frames), batch_size, replace=False))).to(frames.device)
    if rng.random() >= small_share:
        top, left = (int(value) for value in rng.integers(0, frames.shape[2] - crop_px + 1, size=2))
        return to_pixels(frames[indices, :, top : top + crop_px, left : left + crop_px])
    return resize_pixels(to_pixels(frames[indices]), small_sizes[int(rng.integers(len(small_sizes)))])


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """L1 on values and, for crisp edges and movements, on differences along every axis."""
    decoded = decoded.float()
    loss = (decoded - pixels).abs().mean()
    for axis in (2, 3, 4):
        loss = loss + 0.5 * (decoded.diff(dim=axis) - pixels.diff(dim=axis)).abs().mean()
    return loss


def sharing_weights(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """A second module over the same weights: each keeps the frames of its own clips while it encodes and decodes."""
    other = copy.deepcopy(vae)
    for module, source in zip(other.modules(), vae.modules(), strict=True):
        module._parameters = source._parameters
    return other


def draw_resizing(rng: np.random.Generator, cells: int) -> int | None:
    """For a quarter of the batches, to how many latents per side they are resized before decoding."""
    if rng.random() >= 0.25:
        return None
    return cells // 2 if rng.random() < 0.5 else cells - 2


def training_loss(
    vae: AutoencoderKLWan, pixels: Tensor, resized_cells: int | None, rng: np.random.Generator
) -> Tensor:
    """The loss of one batch, or of one thread's part of it."""
    posterior = vae.encode(pixels).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(mean.device)
    latents = mean + POSTERIOR_STD * noise
    if resized_cells is not None:
        latents = resize_latents(latents, LatentSize(latents.shape[2], resized_cells, resized_cells))
        pixels = resize_pixels(pixels, PixelSize(pixels.shape[2], 8 * resized_cells, 8 * resized_cells))
    prior = mean.square().mean() + (logvar - 2 * math.log(POSTERIOR_STD)).square().mean()
    return reconstruction_loss(vae.decode(latents, return_dict=False)[0], pixels) + 1e-4 * prior


@torch.no_grad()
def settle_normalisation(vae: AutoencoderKLWan, frames: Tensor) -> None:
    """Write the latents' mean and scale into the config.

    Every channel gets the *same* scale, so that a channel weighs in the flow loss as much as its energy: whitening
    spends the transformer on channels nobody sees.
    """
    means = torch.cat([vae.encode(to_pixels(clips)).latent_dist.mode() for clips in frames[:96].split(8)])
    mean = means.mean(dim=(0, 2, 3, 4))
    std = (means - mean.view(1, -1, 1, 1, 1)).square().mean().sqrt()
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=[std.item()] * len(mean))


@torch.no_grad()
def validate(vae: AutoencoderKLWan, frames: Tensor, sheet: Path) -> float:
    """Mean PSNR in dB on clips of unseen combinations; writes a sheet of pairs."""
    pixels = to_pixels(frames)
    decoded = torch.cat(
        [vae.decode(vae.encode(clip).latent_dist.mode()).sample.float() for clip in pixels.split(4)]
    )
    save_sheet(
        sheet, [clip for pair in zip(pixels[:6], decoded[:6], strict=True) for clip in pair], columns=5
    )
    error = (decoded - pixels).square().mean(dim=(1, 2, 3, 4)) / 4
    return float((-10 * error.log10()).mean())


def read_arguments() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", help="folder of a trained VAE with no more latent channels, to go on from")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--minutes", type=float, help="end after so long, if the steps take longer")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--muon-lr", type=float, default=3e-2)
    parser.add_argument("--adamw-lr", type=float, default=2e-3)
    parser.add_argument("--clips", type=int, default=1536)
    parser.add_argument("--size", type=PixelSize.parse, default=CLIP_SIZE, help="frames x height x width")
    parser.add_argument("--crop", type=int, default=CROP_PX, help="height and width of what is cut out")
    parser.add_argument(
        "--small", type=PixelSize.parse, nargs="+", default=SMALL_SIZES, help="sizes of whole clips"
    )
    parser.add_argument("--base-dim", type=int, default=BASE_DIM, help="channels of the first level")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: the faster one")
    parser.add_argument("--device", default="cpu", help="with cuda also --threads 1")
    parser.add_argument("--threads", type=int, default=2, help="parts of a batch, each on a processor core")
    arguments = parser.parse_args()
    arguments.precision = arguments.precision or fastest_precision(arguments.device)
    arguments.parser = parser
    return arguments


def recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the weights depend on, as text where a checkpoint would not read it otherwise."""
    kept = ("start", "steps", "batch_size", "muon_lr", "adamw_lr", "clips", "precision", "threads")
    recipe = {name: getattr(arguments, name) for name in kept}
    # Only where they are not what they always were, so that older checkpoints go on.
    for name, usual in (
        ("size", CLIP_SIZE),
        ("crop", CROP_PX),
        ("small", SMALL_SIZES),
        ("base_dim", BASE_DIM),
    ):
        value = getattr(arguments, name)
        if value != usual:
            recipe[name] = str(value)
    return recipe


def take_step(
    step: int,
    frames: Tensor,
    parts: Sequence[AutoencoderKLWan],
    optimizers: Sequence[torch.optim.Optimizer],
    arguments: argparse.Namespace,
    clock: Clock,
) -> float:
    """One step of training, whose draws follow from its number; returns the loss."""
    rng = np.random.default_rng([step, 3])
    early = arguments.start is None and clock.progress(step) < 0.6
    small_share = 0.0 if early else 0.4
    pixels = draw_batch(frames, rng, arguments.batch_size, small_share, arguments.crop, arguments.small)
    resized_cells = draw_resizing(rng, pixels.shape[-1] // 8)
    losses = [
        partial(training_loss, part, share, resized_cells, np.random.default_rng([step, index]))
        for index, (part, share) in enumerate(zip(parts, pixels.chunk(len(parts)), strict=True))
    ]
    loss = threaded_backward(losses, arguments.precision, arguments.device)
    torch.nn.utils.clip_grad_norm_(parts[0].parameters(), 1.0)
    rates = (arguments.muon_lr, arguments.adamw_lr)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate * clock.learning_rate_share(step, warmup_steps=30)
        optimizer.step()
        optimizer.zero_grad()
    return loss


def main() -> None:
    """Command line."""
    arguments = read_arguments()
    device, size = arguments.device, arguments.size
    torch.manual_seed(0)
    vae = build_vae(arguments.base_dim)
    if arguments.start is not None:
        take_weights(vae, AutoencoderKLWan.from_pretrained(arguments.start, torch_dtype=torch.float32))
    vae.to(device)
    optimizers = build_optimizers(vae, arguments.muon_lr, arguments.adamw_lr)
    frames = arguments.out / "frames"
    train = torch.from_numpy(composed_frames("train", 0, arguments.clips, frames, size)).to(device)
    unseen = torch.from_numpy(composed_frames("heldout", 1, 24, frames, size)).to(device)
    clock = Clock(arguments.steps, arguments.minutes)
    state = {"model": vae, "muon": optimizers[0], "adamw": optimizers[1]}
    if arguments.minutes is not None:
        state["clock"] = clock
    recipe = recipe_of(arguments)
    try:
        done = first = load_checkpoint(arguments.out, state, recipe)
    except ValueError as error:
        arguments.parser.error(str(error))
    parts = [vae, *(sharing_weights(vae) for _ in range(1, arguments.threads))]
    started = time.monotonic()
    over = clock.is_over(done)
    while not over:
        loss = take_step(done, train, parts, optimizers, arguments, clock)
        done += 1
        over = clock.is_over(done)
        if done % 20 == 0:
            pace = (time.monotonic() - started) / (done - first)
            print(f"step {done} loss {loss:.4f} {pace:.2f} s a step", flush=True)
        if done % 200 == 0 or over:
            with autocast(arguments.precision, device):
                psnr = validate(vae, unseen, arguments.out / f"sheet-{done:05d}.png")
            print(f"step {done}: {psnr:.2f} dB on unseen combinations", flush=True)
            save_checkpoint(arguments.out, done, state, recipe)
    with autocast(arguments.precision, device):
        psnr = validate(vae, unseen, arguments.out / "sheet.png")
    write_json(arguments.out / REPORT_NAME, {"steps": done, "unseen_psnr_db": psnr})
    settle_normalisation(vae, train)
    with whole_folder(arguments.out / "final") as draft:
        vae.save_pretrained(draft)


if __name__ == "__main__":
    main()
