r"""Train the teacher of pocket-wan: a `WanTransformer3DModel`, flow matching on small grids and the full one.

    python -m tools.pocket.teacher init --vae out/pocket/vae/final --text out/pocket/text --out out/pocket/pipeline
    swd-video encode configs/pocket/swd.yaml --model out/pocket/pipeline --data.extra_grids [2x6x6,3x6x6,3x8x8,3x10x10]
    python -m tools.pocket.teacher train --pipeline out/pocket/pipeline --cache out/pocket/latents \
        --out out/pocket/teacher

Most samples are on the small grids, where a step is cheap and shapes are learnt; then the full grid takes over. The
matrices of the blocks are trained by Muon, the rest by AdamW. `train` goes on from its last checkpoint. Another size
of network, other grids and an end by time: `init --heads 5 --head-dim 64 --patch 1`, `train --grids 2x4x4:0.1:2048
9x16x16:0.9:64 --minutes 8`.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, UMT5EncoderModel

from swd_video.core.flow import add_noise, velocity_target
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.data.latent_cache import LatentCache, of_same_encoders
from swd_video.files import whole_folder
from swd_video.models.loading import VideoSpec, load_teacher, write_video_spec
from swd_video.models.wan import WanModel
from swd_video.training.checkpoint_file import load_checkpoint, save_checkpoint
from swd_video.training.muon import Muon
from tools.pocket.corpus import CLIP_SIZE, frame_rate, parse_caption
from tools.pocket.curricula import CURRICULA, Phase, parse_phase, phase_of
from tools.pocket.pictures import save_sheet
from tools.pocket.recipes import Clock, autocast, fastest_precision, threaded_backward
from tools.pocket.text import wording

PROMPTS = (
    "a tiger moving left on a green meadow",
    "a penguin falling down in the snow",
    "an alien coming closer at night",
    "a racing car moving right on a sandy beach",
    "a bee floating up under a blue sky",
    "an elephant standing still at sunset",
    "a birthday cake coming closer under a blue sky",
    "a panda moving left on a sandy beach",
)
PROMPT_DROPOUT = 0.1
CANONICAL_WORDING = 0.75


@dataclass(frozen=True)
class Shape:
    """Size of a teacher; its feed-forward layers are four times as wide as `heads` x `head_dim`."""

    layers: int = 8
    heads: int = 4
    head_dim: int = 48
    patch: int = 2
    """Height and width in latents of a token."""


def build_transformer(
    latent_channels: int,
    text_dim: int,
    shape: Shape = Shape(),
) -> WanTransformer3DModel:
    """The untrained network."""
    return WanTransformer3DModel(
        patch_size=(1, shape.patch, shape.patch),
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        in_channels=latent_channels,
        out_channels=latent_channels,
        text_dim=text_dim,
        freq_dim=128,
        ffn_dim=4 * shape.heads * shape.head_dim,
        num_layers=shape.layers,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )


@torch.no_grad()
def take_weights(transformer: WanTransformer3DModel, trained: WanTransformer3DModel) -> None:
    """Start from a trained network of the same form with fewer latent channels or blocks; what is new adds nothing.

    A new block is a copy of the one before it whose branches end in zeros (arXiv 2401.02415, section 3.2).
    """
    old, new = trained.config.in_channels, transformer.config.in_channels
    weights = trained.state_dict()
    into = transformer.patch_embedding.weight.new_zeros(transformer.patch_embedding.weight.shape)
    into[:, :old] = weights["patch_embedding.weight"]
    weights["patch_embedding.weight"] = into
    for name in ("proj_out.weight", "proj_out.bias"):
        # Rows are the cells of a patch, channels last.
        narrow = weights[name].unflatten(0, (-1, old))
        wide = narrow.new_zeros(narrow.shape[0], new, *narrow.shape[2:])
        wide[:, :old] = narrow
        weights[name] = wide.flatten(0, 1)
    sources = [i * len(trained.blocks) // len(transformer.blocks) for i in range(len(transformer.blocks))]
    for i, source in enumerate(sources):
        is_new = i > 0 and source == sources[i - 1]
        for name, value in trained.blocks[source].state_dict().items():
            ends_branch = name.startswith(("attn1.to_out.", "attn2.to_out.", "ffn.net.2."))
            weights[f"blocks.{i}.{name}"] = torch.zeros_like(value) if is_new and ends_branch else value
    transformer.load_state_dict(weights)


def initialise(
    vae: Path,
    text: Path,
    out: Path,
    start: Path | None = None,
    size: PixelSize = CLIP_SIZE,
    shape: Shape = Shape(),
) -> None:
    """Put the parts together as an ordinary pipeline folder, its transformer untrained or from an earlier folder."""
    torch.manual_seed(0)
    encoder = UMT5EncoderModel.from_pretrained(text / "text_encoder")
    codec = AutoencoderKLWan.from_pretrained(vae)
    transformer = build_transformer(codec.config.z_dim, encoder.config.d_model, shape)
    if start is not None:
        take_weights(
            transformer,
            WanTransformer3DModel.from_pretrained(start, subfolder="transformer", torch_dtype=torch.float32),
        )
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(text / "tokenizer"),
        text_encoder=encoder,
        transformer=transformer,
        vae=codec,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
    )
    with whole_folder(out) as draft:
        pipe.save_pretrained(draft)
        write_video_spec(draft, VideoSpec(fps=frame_rate(size), training_size=size))
        # Latent caches know their encoders by the bytes.
        for source, part in (
            (vae, "vae"),
            (text / "text_encoder", "text_encoder"),
            (text / "tokenizer", "tokenizer"),
        ):
            shutil.rmtree(draft / part)
            shutil.copytree(source, draft / part)


def phases_of(arguments: argparse.Namespace) -> Callable[[int], Phase]:
    """The phase of every step of what was asked for."""
    if not arguments.grids:
        return lambda step: phase_of(step, arguments.steps, arguments.curriculum)
    phase = parse_phase(arguments.grids)
    return lambda step: phase


def draw_sigmas(batch_size: int, rng: np.random.Generator) -> Tensor:
    """One noise level for each clip, spread evenly over the batch.

    Half of them lean to high noise everywhere (shift 1.5), the other half lie where shapes are settled, round 0.65
    (logit-normal, arXiv 2403.03206): a small network has nothing to spare for the rest.
    """
    even = torch.from_numpy((rng.permutation(batch_size) + rng.random(batch_size)) / batch_size)
    settling = torch.from_numpy(rng.permutation(batch_size) < batch_size // 2)
    sigmas = torch.where(
        settling, torch.sigmoid(0.6 + 0.8 * torch.special.ndtri(even)), 1.5 * even / (1 + 0.5 * even)
    )
    return sigmas.float()


def build_optimizers(
    transformer: WanTransformer3DModel, muon_lr: float, adamw_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for name, p in transformer.named_parameters() if "blocks." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in transformer.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr=muon_lr),
        torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def open_caches(folders: Sequence[Path]) -> list[LatentCache]:
    """Latent caches that are to be learned from together.

    Raises:
        ValueError: if they hold other grids than the first, or latents of other encoders.
    """
    first, *others = caches = [LatentCache(folder) for folder in folders]
    for other in others:
        alike = of_same_encoders(other.index, first.index["model"], first.index["encoders"])
        if not alike or other.grids != first.grids:
            raise ValueError(
                f"--cache: {other.folder} has other grids or encoders than {first.folder}, expected the same; "
                "encode its clips anew."
            )
    return caches


class Corpus:
    """Whole latent caches of the same grids in memory, and prompt embeddings in many wordings."""

    def __init__(self, caches: Sequence[LatentCache], model: WanModel) -> None:
        """Read them to where the model is."""
        samples = [cache.get(index) for cache in caches for index in range(len(cache))]
        self.specs = [parse_caption(sample["caption"]) for sample in samples]
        self.latents = {
            grid: torch.stack([sample["latents"][grid] for sample in samples]).to(model.device, torch.float32)
            for grid in samples[0]["latents"]
        }
        self.model = model
        self._embeds: dict[str, Tensor] = {}

    def prompt_embeds(self, indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Captions of the clips, one in ten empty, one in four in other words."""
        captions = [
            "" if rng.random() < PROMPT_DROPOUT else wording(self.specs[i], rng, CANONICAL_WORDING)
            for i in indices
        ]
        new = sorted({caption for caption in captions if caption not in self._embeds})
        if new:
            self._embeds.update(zip(new, self.model.encode_prompt(new), strict=True))
        return torch.stack([self._embeds[caption] for caption in captions])


def flow_loss(model: WanModel, x0: Tensor, noise: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
    """Flow matching: the mean squared error of the velocity."""
    velocity = model.predict_velocity(add_noise(x0, noise, sigma), sigma, prompt_embeds)
    return (velocity - velocity_target(x0, noise)).square().mean()


def draw(
    corpus: Corpus, phase: Phase, step: int, device: str
) -> tuple[LatentSize, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The grid of a step, and its batch: latents, noise, noise levels and prompt embeddings."""
    rng = np.random.default_rng([step, 11])
    grids = phase.grids
    grid = list(grids)[rng.choice(len(grids), p=[share for share, _ in grids.values()])]
    indices = rng.choice(len(corpus.specs), grids[grid][1], replace=False)
    x0 = corpus.latents[grid][torch.from_numpy(indices).to(device)]
    # Drawn where it is needed: a processor takes longer for it than a GPU for the step.
    noise = torch.randn(x0.shape, generator=torch.Generator(device).manual_seed(step), device=device)
    sigmas = draw_sigmas(len(indices), rng).to(device)
    return grid, (x0, noise, sigmas, corpus.prompt_embeds(indices, rng))


def backward(model: WanModel, batch: Sequence[Tensor], threads: int, precision: str, device: str) -> float:
    """Gradients of the loss of a batch; returns the loss."""
    parts = zip(*(tensor.chunk(threads) for tensor in batch), strict=True)
    losses = [partial(flow_loss, model, *part) for part in parts]
    # A processor's fused attention has a backward pass that takes twice as long as the products written out.
    with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
        return threaded_backward(losses, precision, device)


def move(
    transformer: WanTransformer3DModel, optimizers: Sequence[torch.optim.Optimizer], rates: Sequence[float]
) -> None:
    """One step of the optimizers, each at its learning rate."""
    torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def train(arguments: argparse.Namespace) -> None:
    """The training loop."""
    device, phases = arguments.device, phases_of(arguments)
    model = load_teacher(arguments.pipeline, device=device)
    assert isinstance(model, WanModel)
    transformer = model.pipe.transformer.train()
    corpus = Corpus(open_caches(arguments.cache), model)
    optimizers = build_optimizers(transformer, arguments.muon_lr, arguments.adamw_lr)
    ema = EMAModel(list(transformer.parameters()), decay=arguments.ema_decay, foreach=device != "cpu")
    clock = Clock(arguments.steps, arguments.minutes)
    state = {"model": transformer, "ema": ema, "muon": optimizers[0], "adamw": optimizers[1]}
    precision = arguments.precision or fastest_precision(device)
    kept = ("steps", "curriculum", "muon_lr", "adamw_lr", "ema_decay", "threads")
    recipe = {name: getattr(arguments, name) for name in kept} | {"precision": precision}
    # Only where they are asked for, so that older checkpoints go on.
    state |= {"clock": clock} if arguments.minutes is not None else {}
    recipe |= {"grids": " ".join(arguments.grids)} if arguments.grids else {}
    done = first = load_checkpoint(arguments.out, state, recipe)
    ema.to(device)
    history: dict[str, list[float]] = {}
    clips = 0
    started = time.monotonic()
    over = clock.is_over(done)
    while not over:
        grid, batch = draw(corpus, phases(done), done, device)
        loss = backward(model, batch, arguments.threads, precision, device)
        with autocast(precision, device):
            share = clock.learning_rate_share(done)
            move(transformer, optimizers, (arguments.muon_lr * share, arguments.adamw_lr * share))
        ema.step(transformer.parameters())
        history.setdefault(str(grid), []).append(loss)
        done, clips = done + 1, clips + len(batch[0])
        over = clock.is_over(done)
        if done % 50 == 0 or over:
            averages = " ".join(
                f"{name} {np.mean(values[-50:]):.4f}" for name, values in sorted(history.items())
            )
            pace = (time.monotonic() - started) / (done - first)
            print(f"step {done} {pace:.2f} s a step, {clips} clips; {averages}", flush=True)
        if done % arguments.save_every == 0 or over:
            save_checkpoint(arguments.out, done, state, recipe)
            with averaged(ema, transformer), autocast(precision, device):
                sample(model, list(phases(done - 1).grids)[-1], arguments.out / f"sheet-{done:06d}.png")
    with averaged(ema, transformer), whole_folder(arguments.out / "final") as draft:
        shutil.copytree(arguments.pipeline, draft, dirs_exist_ok=True)
        transformer.save_pretrained(draft / "transformer")


@contextmanager
def averaged(ema: EMAModel, transformer: WanTransformer3DModel) -> Iterator[None]:
    """The averaged weights in the network, while the block runs."""
    ema.store(transformer.parameters())
    ema.copy_to(transformer.parameters())
    try:
        yield
    finally:
        ema.restore(transformer.parameters())


@torch.no_grad()
def sample(
    model: WanModel, grid: LatentSize, sheet: Path, steps: int = 20, guidance_scale: float = 2.5
) -> None:
    """Clips of `PROMPTS` by plain guided Euler steps, as a sheet to look at."""
    shape = (len(PROMPTS), model.spec.latent_channels, *grid.as_tuple())
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    embeds = torch.cat([model.encode_prompt(list(PROMPTS)), model.encode_prompt([""] * len(PROMPTS))])
    even = torch.linspace(1, 0, steps + 1)
    sigmas = (2 * even / (1 + even)).tolist()
    for sigma, following in pairwise(sigmas):
        conditional, unconditional = model.predict_velocity(
            latents.repeat(2, 1, 1, 1, 1), sigma, embeds
        ).chunk(2)
        velocity = unconditional + guidance_scale * (conditional - unconditional)
        latents = latents + (following - sigma) * velocity
    save_sheet(sheet, list(model.decode(latents).cpu()), columns=5)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    assemble = commands.add_parser("init", help="put the parts together")
    for name in ("--vae", "--text", "--out"):
        assemble.add_argument(name, type=Path, required=True)
    assemble.add_argument("--start", type=Path, help="pipeline folder whose transformer to go on from")
    assemble.add_argument("--size", type=PixelSize.parse, default=CLIP_SIZE, help="of its clips, in pixels")
    for field in fields(Shape):
        name = f"--{field.name.replace('_', '-')}"
        assemble.add_argument(name, type=int, default=field.default, help="of the transformer")
    trainer = commands.add_parser("train", help="train the transformer on latent caches")
    for name in ("--pipeline", "--out"):
        trainer.add_argument(name, type=Path, required=True)
    trainer.add_argument(
        "--cache", type=Path, nargs="+", required=True, help="one or more, of the same grids"
    )
    trainer.add_argument("--steps", type=int, default=3100)
    trainer.add_argument("--minutes", type=float, help="end after so long, if the steps take longer")
    trainer.add_argument(
        "--grids",
        nargs="+",
        metavar="GRID:SHARE:CLIPS",
        help="in place of a curriculum, the full grid last: 2x4x4:0.1:2048 9x16x16:0.9:64",
    )
    trainer.add_argument(
        "--curriculum",
        choices=CURRICULA,
        default="small-first",
        help="small-first: small grids for 30 %% of the steps; mostly-full: to go on from a trained transformer; "
        "ladder: the same for the grids of configs/pocket/swd.yaml; full-only: a teacher that is not adapted to small "
        "grids; larger: one for 33 frames of 128x128 pixels",
    )
    trainer.add_argument("--muon-lr", type=float, default=1e-2)
    trainer.add_argument("--adamw-lr", type=float, default=1e-3)
    trainer.add_argument("--ema-decay", type=float, default=0.998)
    trainer.add_argument("--save-every", type=int, default=250)
    trainer.add_argument("--precision", choices=("bf16", "fp32"), help="default: the faster one")
    trainer.add_argument("--device", default="cpu", help="with cuda also --threads 1")
    trainer.add_argument("--threads", type=int, default=2, help="parts of a batch, each on a processor core")
    arguments = parser.parse_args()
    if arguments.command == "init":
        shape = Shape(**{field.name: getattr(arguments, field.name) for field in fields(Shape)})
        initialise(arguments.vae, arguments.text, arguments.out, arguments.start, arguments.size, shape)
    else:
        try:
            train(arguments)
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
