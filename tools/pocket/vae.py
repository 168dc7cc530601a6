"""Train the VAE of pocket-wan: an `AutoencoderKLWan` of 8x in space and 4x in time.

    python -m tools.pocket.vae --out out/pocket/vae

Like Wan 2.2's, it folds 2x2 pixels into channels first, so that its convolutions run at half the size. The loss is
L1 on pixels and on their differences in space and time, a weak pull of the latents to zero, and, for a quarter of the
batches, the same loss between *resized* latents' decoding and resized pixels (EQ-VAE, arXiv 2502.09509): a scale-wise
student upsamples latents, so they had better behave like pictures. Convolutions are trained by Muon, the rest by
AdamW. Stopped at any moment, it goes on from its last checkpoint.

Most of the work is the VAE's own decoder. `--through` lets the encoder learn beside a fast decoder in its place, which
sees several times as many clips in that time and is written beside the VAE; the VAE's own decoder follows in the last
third, while the encoder stands still:

    python -m tools.pocket.vae --out out/pocket/vae --start swd_video/assets/pocket-wan/vae \
        --through swd_video/assets/pocket-wan-swd/decoder.safetensors --clips 3072 --minutes 90 \
        --steps 100000 --muon-lr 1e-2 --adamw-lr 1e-3

A larger one on a GPU, which stays as busy as it can with clips that lie on it:

    python -m tools.pocket.vae --out out/world/vae --size 33x128x128 --base-dim 48 --device cuda --threads 1 \
        --batch-size 32 --crop 64 --small 5x32x32 17x64x64 33x64x64 33x80x80 --steps 100000 --minutes 6
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.resize import resize_latents, resize_pixels
from swd_video.files import whole_folder, write_json
from swd_video.training.checkpoint_file import load_checkpoint, save_checkpoint
from swd_video.training.muon import Muon
from swd_video.training.optimizers import learning_rate_share
from tools.pocket.corpus import CLIP_SIZE
from tools.pocket.pictures import composed_frames, save_sheet, to_pixels
from tools.pocket.recipes import Clock, autocast, fastest_precision, threaded_backward

# Noise on the latents while training. The posterior's own width starts at 1 and drowns the colours for hundreds of
# steps; a fixed one does not, and the network is taught to report it.
POSTERIOR_STD = 0.1
LATENT_CHANNELS = 32
BASE_DIM = 32
REPORT_NAME = "report.json"
DECODER_NAME = "decoder.safetensors"
OWN_DECODER_SHARE = 1 / 3
"""Of a training through a fast decoder, at its end."""
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


def build_optimizers(
    network: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions between hidden channels, AdamW for everything else."""
    kernels = [
        weight
        for weight in network.parameters()
        if weight.ndim >= 4 and min(len(weight), weight[0].numel()) > 8
    ]
    chosen = {id(weight) for weight in kernels}
    others = [weight for weight in network.parameters() if id(weight) not in chosen]
    return [
        Muon(kernels, lr=muon_lr, momentum=0.9, weight_decay=weight_decay),
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


def decode_fast(vae: AutoencoderKLWan, fast: StreamingDecoder, latents: Tensor) -> Tensor:
    """What a fast decoder shows of a VAE's own latents: it takes them normalised."""
    mean = torch.tensor(vae.config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    pixels: Tensor = fast((latents - mean) / std)
    return pixels


def decode_own(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """What the VAE shows of them."""
    pixels: Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def training_loss(
    vae: AutoencoderKLWan,
    pixels: Tensor,
    resized_cells: int | None,
    rng: np.random.Generator,
    decode: Callable[[AutoencoderKLWan, Tensor], Tensor] = decode_own,
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
    return reconstruction_loss(decode(vae, latents), pixels) + 1e-4 * prior


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
def validate(
    vae: AutoencoderKLWan,
    frames: Tensor,
    sheet: Path,
    decode: Callable[[AutoencoderKLWan, Tensor], Tensor] = decode_own,
) -> float:
    """Mean PSNR in dB on clips of unseen combinations; writes a sheet of pairs."""
    pixels = to_pixels(frames)
    decoded = torch.cat(
        [decode(vae, vae.encode(clip).latent_dist.mode()).float() for clip in pixels.split(4)]
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
    parser.add_argument(
        "--through", type=Path, help="a fast decoder of --start that the encoder learns beside"
    )
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
    if arguments.through is not None and arguments.start is None:
        parser.error(
            "argument --through: got no --start, expected the VAE that the decoder belongs to; name it."
        )
    arguments.precision = arguments.precision or fastest_precision(arguments.device)
    arguments.parser = parser
    return arguments


def recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the weights depend on, as text where a checkpoint would not read it otherwise."""
    kept = ("start", "steps", "batch_size", "muon_lr", "adamw_lr", "clips", "precision", "threads")
    recipe = {name: getattr(arguments, name) for name in kept}
    # Only where they are not what they always were, so that older checkpoints go on.
    for name, usual in (
        ("through", None),
        ("size", CLIP_SIZE),
        ("crop", CROP_PX),
        ("small", SMALL_SIZES),
        ("base_dim", BASE_DIM),
    ):
        value = getattr(arguments, name)
        if value != usual:
            recipe[name] = str(value)
    return recipe


@dataclass(frozen=True)
class Phase:
    """A part of a training: what learns in it, and what shows the latents.

    Attributes:
        learns: the weights that move.
        decode: see `training_loss`.
        optimizers: of those weights.
        until: share of the training that lies behind at its end.
    """

    learns: nn.Module
    decode: Callable[[AutoencoderKLWan, Tensor], Tensor]
    optimizers: Sequence[torch.optim.Optimizer]
    until: float


def plan_phases(
    vae: AutoencoderKLWan, fast: StreamingDecoder | None, muon_lr: float, adamw_lr: float
) -> list[Phase]:
    """All at once or, with a fast decoder, the encoder beside it and then the VAE's own decoder."""
    if fast is None:
        return [Phase(vae, decode_own, build_optimizers(vae, muon_lr, adamw_lr), 1.0)]
    beside = nn.ModuleList([vae.encoder, vae.quant_conv, fast])
    own = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    # Kernels that are trained for this long grow without weight decay.
    optimizers = [build_optimizers(learns, muon_lr, adamw_lr, weight_decay=0.1) for learns in (beside, own)]
    return [
        Phase(
            beside, lambda vae, latents: decode_fast(vae, fast, latents), optimizers[0], 1 - OWN_DECODER_SHARE
        ),
        Phase(own, decode_own, optimizers[1], 1.0),
    ]


def phase_at(progress: float, phases: Sequence[Phase]) -> tuple[Phase, float]:
    """Which one runs, and the share of it that lies behind."""
    begun = 0.0
    for phase in phases:
        if progress < phase.until or phase is phases[-1]:
            break
        begun = phase.until
    return phase, (progress - begun) / (phase.until - begun)


def take_step(
    step: int,
    frames: Tensor,
    parts: Sequence[AutoencoderKLWan],
    phases: Sequence[Phase],
    arguments: argparse.Namespace,
    clock: Clock,
) -> float:
    """One step of training, whose draws follow from its number; returns the loss."""
    rng = np.random.default_rng([step, 3])
    early = arguments.start is None and clock.progress(step) < 0.6
    small_share = 0.0 if early else 0.4
    pixels = draw_batch(frames, rng, arguments.batch_size, small_share, arguments.crop, arguments.small)
    resized_cells = draw_resizing(rng, pixels.shape[-1] // 8)
    phase, behind = phase_at(clock.progress(step), phases)
    for other in phases:
        other.learns.requires_grad_(other is phase)
    losses = [
        partial(training_loss, part, share, resized_cells, np.random.default_rng([step, index]), phase.decode)
        for index, (part, share) in enumerate(zip(parts, pixels.chunk(len(parts)), strict=True))
    ]
    loss = threaded_backward(losses, arguments.precision, arguments.device)
    torch.nn.utils.clip_grad_norm_(phase.learns.parameters(), 1.0)
    rates = (arguments.muon_lr, arguments.adamw_lr)
    for optimizer, rate in zip(phase.optimizers, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 30, learning_rate_share(behind, 1, 0))
        optimizer.step()
        optimizer.zero_grad()
    return loss


def main() -> None:
    """Command line."""
    arguments = read_arguments()
    device, size = arguments.device, arguments.size
    torch.manual_seed(0)
    vae, fast = build_vae(arguments.base_dim), None
    if arguments.start is not None:
        started_from = AutoencoderKLWan.from_pretrained(arguments.start, torch_dtype=torch.float32)
        take_weights(vae, started_from)
    vae.to(device)
    if arguments.through is not None:
        vae.register_to_config(
            latents_mean=started_from.config.latents_mean, latents_std=started_from.config.latents_std
        )
        fast = StreamingDecoder.load(arguments.through).to(device)
    phases = plan_phases(vae, fast, arguments.muon_lr, arguments.adamw_lr)
    frames = arguments.out / "frames"
    train = torch.from_numpy(composed_frames("train", 0, arguments.clips, frames, size)).to(device)
    unseen = torch.from_numpy(composed_frames("heldout", 1, 24, frames, size)).to(device)
    clock = Clock(arguments.steps, arguments.minutes)
    state: dict[str, Any] = {"model": vae} | ({} if fast is None else {"fast": fast})
    for number, phase in enumerate(phases):
        names = (f"{name}{number or ''}" for name in ("muon", "adamw"))
        state |= dict(zip(names, phase.optimizers, strict=True))
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
        loss = take_step(done, train, parts, phases, arguments, clock)
        done += 1
        over = clock.is_over(done)
        if done % 20 == 0:
            pace = (time.monotonic() - started) / (done - first)
            print(f"step {done} loss {loss:.4f} {pace:.2f} s a step", flush=True)
        if done % 200 == 0 or over:
            with autocast(arguments.precision, device):
                decode = phase_at(clock.progress(done), phases)[0].decode
                psnr = validate(vae, unseen, arguments.out / f"sheet-{done:05d}.png", decode)
            print(f"step {done}: {psnr:.2f} dB on unseen combinations", flush=True)
            save_checkpoint(arguments.out, done, state, recipe)
    with autocast(arguments.precision, device):
        psnr = validate(vae, unseen, arguments.out / "sheet.png")
    write_json(arguments.out / REPORT_NAME, {"steps": done, "unseen_psnr_db": psnr})
    if fast is None:
        settle_normalisation(vae, train)
    else:
        # Its latents are normalised as those of the VAE that it began with.
        fast.vae, fast.made_of = "", None
        fast.save(arguments.out / DECODER_NAME)
    with whole_folder(arguments.out / "final") as draft:
        vae.save_pretrained(draft)


if __name__ == "__main__":
    main()
