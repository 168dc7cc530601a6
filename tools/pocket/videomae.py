"""Train a small VideoMAE on the pocket corpus: a video encoder of pixels for `loss.mmd`, where no hub is near.

    python -m tools.pocket.videomae --out out/pocket/videomae

It sees composed corpus clips of the training split without their captions, and fills in what is hidden of them: the
same three quarters of the places in all frames (tubes). Kill it at any moment and run the same command again: it goes
on from the clips already composed and the last checkpoint, and ends with the same weights. `final/` is the encoder as
transformers loads it. What it trained must be judged by others.

Source: VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training
(arXiv 2203.12602).
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from swd_video.core.grid import PixelSize
from swd_video.files import whole_folder, write_json
from swd_video.models.pixel_form import PixelForm
from swd_video.training.checkpoint_file import load_checkpoint, save_checkpoint
from swd_video.training.optimizers import learning_rate_share
from tools.pocket import corpus
from tools.pocket.pictures import composed_frames, to_pixels
from tools.pocket.recipes import autocast, fastest_precision

CLIPS_SIZE = PixelSize(17, 64, 64)
# transformers takes these back out of the pixels that are to be filled in.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STRIDES = (1, 2)


@dataclass(frozen=True)
class VideoMaeOptions:
    """How it is trained."""

    out: Path
    """Folder for the encoder, its composed clips and its checkpoint."""
    seed: int = 0
    clips: int = 2048
    """Training clips to compose."""
    test_clips: int = 128
    """Held-out clips on which its error is measured at the end."""
    steps: int = 6000
    batch_size: int = 32
    learning_rate: float = 1e-3
    hidden_share: float = 0.75
    """Share of the places that are hidden."""
    checkpoint_every: int = 200
    precision: str = "auto"
    """fp32, bf16, or auto for the faster of both on the device."""
    device: str = "cpu"
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the result as one JSON object on stdout."""

    def recipe(self) -> dict[str, Any]:
        """What the weights depend on."""
        kept = ("seed", "clips", "steps", "batch_size", "learning_rate", "hidden_share")
        return {name: value for name, value in asdict(self).items() if name in kept}


def build_model() -> VideoMAEForPreTraining:
    """Six layers of 192 channels over 16 pictures of 64x64, in patches of 2x8x8."""
    config = VideoMAEConfig(
        image_size=64, patch_size=8, num_frames=16, tubelet_size=2,
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768,
        decoder_hidden_size=96, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
        decoder_intermediate_size=384, norm_pix_loss=True, use_mean_pooling=False,
    )  # fmt: skip
    return VideoMAEForPreTraining(config)


def draw_batch(frames: np.ndarray, config: Any, count: int, rng: np.random.Generator) -> Tensor:
    """Stretches of clips at the full or half the frame rate, in the network's form: batch frames 3 height width."""
    form = PixelForm(config.num_frames, config.image_size, config.image_size, _MEAN, _STD)
    shown = []
    for index in np.sort(rng.choice(len(frames), count, replace=len(frames) < count)):
        stride = int(rng.choice(_STRIDES))
        length = min(stride * (config.num_frames - 1) + 1, frames.shape[1])
        first = int(rng.integers(frames.shape[1] - length + 1))
        shown.append(form.shape(to_pixels(frames[index : index + 1, first : first + length : stride])))
    return torch.cat(shown).transpose(1, 2)


def draw_mask(config: Any, count: int, hidden_share: float, rng: np.random.Generator) -> Tensor:
    """Which tokens are hidden (True): of each clip other places, in all its frames the same; batch x tokens."""
    places = (config.image_size // config.patch_size) ** 2
    ranks = rng.random((count, places)).argsort(axis=1).argsort(axis=1)
    hidden = torch.from_numpy(ranks < round(hidden_share * places))
    return hidden.repeat(1, config.num_frames // config.tubelet_size)


def train(model: VideoMAEForPreTraining, frames: np.ndarray, options: VideoMaeOptions) -> list[float]:
    """Train in place; goes on from `checkpoint.pt` in `options.out`.

    Args:
        model: the network.
        frames: uint8 clips, clips frames height width 3.
        options: recipe and output folder.

    Returns:
        The loss of every step that was taken.
    """
    precision = fastest_precision(options.device) if options.precision == "auto" else options.precision
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.05
    )
    state = {"model": model, "optimizer": optimizer}
    first = load_checkpoint(options.out, state, options.recipe())
    model.train()
    losses: list[float] = []
    began = time.monotonic()
    for step in range(first, options.steps):
        rng = np.random.default_rng([options.seed, step])
        pixels = draw_batch(frames, model.config, options.batch_size, rng)
        hidden = draw_mask(model.config, options.batch_size, options.hidden_share, rng)
        with autocast(precision, options.device):
            loss = model(pixels.to(options.device), bool_masked_pos=hidden.to(options.device)).loss
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * learning_rate_share(
                step, options.steps, warmup_steps=max(options.steps // 20, 1)
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        done = step + 1
        if done % 20 == 0 or done == options.steps:
            left = (time.monotonic() - began) / (done - first) * (options.steps - done)
            print(
                f"step {done} of {options.steps}: loss {np.mean(losses[-20:]):.4f}, {left:.0f} s left",
                file=sys.stderr,
            )
        if done % options.checkpoint_every == 0 or done == options.steps:
            save_checkpoint(options.out, done, state, options.recipe())
    return losses


@torch.no_grad()
def held_out_error(model: VideoMAEForPreTraining, frames: np.ndarray, options: VideoMaeOptions) -> float:
    """Mean squared error of what is hidden, of clips that it was not trained on; 1 is what a flat patch gets."""
    model.eval()
    rng = np.random.default_rng([options.seed, 1, 1])
    losses = []
    for start in range(0, len(frames), options.batch_size):
        clips = frames[start : start + options.batch_size]
        pixels = draw_batch(clips, model.config, len(clips), rng).to(options.device)
        hidden = draw_mask(model.config, len(clips), options.hidden_share, rng).to(options.device)
        losses.append(model(pixels, bool_masked_pos=hidden).loss)
    return float(torch.stack(losses).mean())


def save_encoder(model: VideoMAEForPreTraining, folder: Path, about: dict[str, object]) -> None:
    """Write the encoder without its decoder, as transformers loads it, and what is to be known about it."""
    with whole_folder(folder) as draft:
        model.videomae.save_pretrained(draft)
        write_json(draft / "preprocessor_config.json", {"image_mean": _MEAN, "image_std": _STD})
        write_json(draft / "videomae.json", about)


def run(options: VideoMaeOptions) -> dict[str, object]:
    """Compose, train, measure and save; returns what `final/videomae.json` says."""
    corpus.fetch(corpus.EMOJI_FOLDER)
    torch.manual_seed(options.seed)
    model = build_model().to(options.device)
    train(
        model,
        composed_frames("train", options.seed, options.clips, options.out / "frames", CLIPS_SIZE),
        options,
    )
    unseen = composed_frames(
        "heldout", options.seed + 1, options.test_clips, options.out / "frames", CLIPS_SIZE
    )
    about: dict[str, object] = {
        "trained_on": "composed corpus clips of the train split",
        "recipe": options.recipe(),
        "held_out_error": held_out_error(model, unseen, options),
    }
    save_encoder(model, options.out / "final", about)
    return about


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(VideoMaeOptions, args=argv, description=__doc__)
    try:
        about = run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json_output:
        print(json.dumps(about))
    else:
        print(f"error on hidden patches of held-out clips: {about['held_out_error']:.3f}")
        print(f"wrote {options.out / 'final'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
