"""Train the judge of the pocket world: a small 3-D CNN that reads subject, motion and background back.

It also reads what the words leave open (size, place, tint, phase of the animation), and says "none of these" to a
subject that is none: it is shown clips that are melted, blurred, shuffled or two at once.

    python -m tools.pocket.judge --out runs/pocket/judge

It sees composed corpus clips of the training split alone, never a teacher's or a student's, and is tested on
the held-out combinations. Kill it at any moment and run the same command again: it goes on from the clips
already composed and the last checkpoint, and ends with the same weights.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional

from swd_video.core.interval import bootstrap_share
from swd_video.core.pixels import pixels_from_frames
from swd_video.evaluation.attribute_judge import CONFIG_NAME, AttributeJudge
from swd_video.files import whole_file
from swd_video.training.checkpoint_file import load_checkpoint, save_checkpoint
from tools.pocket import corpus
from tools.pocket.corpus import (
    BACKGROUNDS,
    MOTIONS,
    SUBJECTS,
    ClipSpec,
    compose_clip,
    composition_of,
    corpus_specs,
)

NONE = "none of these"
CLASSES = {"subject": (*SUBJECTS, NONE), "motion": tuple(MOTIONS), "background": tuple(BACKGROUNDS)}
_SHARD_CLIPS = 256


@dataclass(frozen=True)
class JudgeOptions:
    """How the judge is trained."""

    out: Path
    """Folder for the judge, its composed clips and its checkpoint."""
    seed: int = 0
    clips: int = 2048
    """Training clips to compose."""
    test_clips: int = 500
    """Held-out clips to test on."""
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 2e-3
    checkpoint_every: int = 200
    workers: int = os.cpu_count() or 1
    """Processes that compose clips."""
    device: str = "cpu"
    """Where it is trained and tested."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the result as one JSON object on stdout."""

    def recipe(self) -> dict[str, float | int]:
        """What the weights depend on."""
        kept = ("seed", "clips", "steps", "batch_size", "learning_rate")
        return {name: value for name, value in asdict(self).items() if name in kept}


def attribute_labels(specs: Sequence[ClipSpec]) -> dict[str, np.ndarray]:
    """The classes that clips show, by attribute."""
    return {
        name: np.array([classes.index(getattr(spec, name)) for spec in specs], dtype=np.int64)
        for name, classes in CLASSES.items()
    }


def readings_of(spec: ClipSpec) -> dict[str, float]:
    """What a clip shows beyond its caption: places and sizes in shares of the frame, at its beginning and its end."""
    made = composition_of(spec)
    numbers: dict[str, float] = {}
    for when, at in (("first", 0.0), ("last", 1.0)):
        numbers |= {
            f"{name}_{when}": value
            for name, value in zip(("x", "y", "size"), made.place(spec.motion, at), strict=True)
        }
    angle = 2 * math.pi * made.phase / made.loop
    numbers |= {"phase_sine": math.sin(angle), "phase_cosine": math.cos(angle), "shift": made.shift}
    return numbers | dict(zip(("red", "green", "blue"), made.tint, strict=True))


def deviations_of_readings() -> dict[str, float]:
    """The deviation of each reading among clips of one caption; of its words only the motion settles any."""
    specs = corpus_specs("train", 0, 2000)
    table = np.array([list(readings_of(spec).values()) for spec in specs])
    motions = np.array([MOTIONS.index(spec.motion) for spec in specs])
    means = np.stack([np.bincount(motions, column) / np.bincount(motions) for column in table.T], axis=1)
    return dict(zip(readings_of(specs[0]), (table - means[motions]).std(axis=0).tolist(), strict=True))


def compose_shards(
    folder: Path, judge: AttributeJudge, specs: Sequence[ClipSpec], *, workers: int
) -> list[np.ndarray]:
    """Clips at the judge's input size in files of 256, memory-mapped; files that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    with ProcessPoolExecutor(workers) as pool:
        for start in range(0, len(specs), _SHARD_CLIPS):
            path = folder / f"{start // _SHARD_CLIPS:03d}.npy"
            if not path.exists():
                chunk = specs[start : start + _SHARD_CLIPS]
                clips = [judge.prepare(clip[None]) for clip in pool.map(compose_clip, chunk, chunksize=8)]
                with whole_file(path) as draft, draft.open("wb") as file:
                    np.save(file, torch.cat(clips).numpy())
                print(f"{folder.name}: {start + len(chunk)} of {len(specs)} clips", file=sys.stderr)
            shards.append(np.load(path, mmap_mode="r"))
    return shards


def read_clips(shards: Sequence[np.ndarray], indices: np.ndarray) -> Tensor:
    """Prepared clips by their numbers."""
    return torch.from_numpy(np.stack([shards[i // _SHARD_CLIPS][i % _SHARD_CLIPS] for i in indices]))


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Softer, noisier, shifted and recoloured clips, so that the judge reads shapes and not the last pixel.

    A clip is changed alike in all its frames. Nothing is mirrored or reversed: both change the answer.
    """
    batch, _, frames, height, width = pixels.shape

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    gain, offset = 1 + 0.1 * (random(batch, 3, 1, 1, 1) - 0.5), 0.2 * (random(batch, 3, 1, 1, 1) - 0.5)
    pixels = pixels * gain + offset
    flat = pixels.transpose(1, 2).flatten(0, 1)
    soft = functional.avg_pool2d(functional.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = random(batch, 1, 1, 1).repeat_interleave(frames, dim=0)
    flat = flat + share * (soft - flat)
    reach = 4
    padded = functional.pad(flat, (reach, reach, reach, reach), mode="replicate").unflatten(
        0, (batch, frames)
    )
    corners = torch.randint(0, 2 * reach + 1, (batch, 2), generator=generator).tolist()
    shifted = [clip[..., y : y + height, x : x + width] for clip, (y, x) in zip(padded, corners, strict=True)]
    pixels = torch.stack(shifted).transpose(1, 2)
    noise = torch.randn(pixels.shape, generator=generator)
    return pixels + 0.08 * random(batch, 1, 1, 1, 1) * noise


def spoil(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Clips in which no subject can be told any more: two at once, melted, a cloud, or cut up and shuffled, in turn.

    A clip is changed alike in all its frames.
    """
    batch, _, frames, height, width = pixels.shape
    flat = pixels.transpose(1, 2).flatten(0, 1)

    # Two at once.
    share = 0.35 + 0.3 * torch.rand(batch, 1, 1, 1, 1, generator=generator)
    double = pixels + share * (pixels.roll(1, dims=0) - pixels)
    # Melted: every point is taken from somewhere near it.
    reach = 0.15 + 0.2 * torch.rand(batch, 1, 1, 1, generator=generator)
    field = functional.interpolate(
        torch.randn(batch, 2, 6, 6, generator=generator), size=(height, width), mode="bicubic"
    )
    even = functional.affine_grid(
        torch.eye(2, 3).expand(batch, 2, 3), [batch, 1, height, width], align_corners=False
    )
    places = (even + reach * field.permute(0, 2, 3, 1)).repeat_interleave(frames, dim=0)
    melted = functional.grid_sample(flat, places, padding_mode="border", align_corners=False)
    # A cloud.
    cells = int(torch.randint(4, 8, (), generator=generator))
    cloud = functional.interpolate(flat, size=(cells, cells), mode="bilinear", antialias=True)
    cloud = functional.interpolate(cloud, size=(height, width), mode="bicubic")
    # Cut into four by four and shuffled.
    tiles = pixels.unflatten(4, (4, width // 4)).unflatten(3, (4, height // 4)).transpose(4, 5).flatten(3, 4)
    shuffled = tiles[:, :, :, torch.randperm(16, generator=generator)]
    shuffled = shuffled.unflatten(3, (4, 4)).transpose(4, 5).flatten(5, 6).flatten(3, 4)

    kinds = [double, *(x.unflatten(0, (batch, frames)).transpose(1, 2) for x in (melted, cloud)), shuffled]
    return torch.stack([kinds[i % len(kinds)][i] for i in range(batch)])


_SPOILT_SHARE = 0.2


def train(
    judge: AttributeJudge,
    read: Callable[[np.ndarray], Tensor],
    labels: Mapping[str, np.ndarray],
    readings: np.ndarray,
    options: JudgeOptions,
) -> None:
    """Train in place: AdamW, warmup, cosine decay; goes on from `checkpoint.pt` in `options.out`.

    Of a fifth of each batch, spoilt clips, only the subject is asked: there is none.

    Args:
        judge: The network.
        read: Gives prepared uint8 clips by their numbers.
        labels: Class of every clip, by attribute.
        readings: Of every clip, in their deviations.
        options: Recipe and output folder.
    """
    count = len(readings)
    judge.to(options.device)
    targets = {name: torch.from_numpy(values).to(options.device) for name, values in labels.items()}
    numbers = torch.from_numpy(readings).to(options.device)
    spoilt = round(_SPOILT_SHARE * options.batch_size)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=options.learning_rate, weight_decay=0.05)
    state = {"judge": judge, "optimizer": optimizer}
    first = load_checkpoint(options.out, state, options.recipe())
    judge.train()
    began = time.monotonic()
    for step in range(first, options.steps):
        indices = _batch_indices(options, step, count)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        pixels = pixels_from_frames(read(indices))
        pixels = torch.cat([spoil(pixels[:spoilt], generator), pixels[spoilt:]])
        logits, found = judge(augment(pixels, generator).to(options.device))
        losses = [functional.smooth_l1_loss(found[spoilt:], numbers[indices[spoilt:]])]
        for name, values in logits.items():
            wanted = targets[name][indices]
            if name == "subject":
                wanted[:spoilt] = CLASSES[name].index(NONE)
            asked = slice(None) if name == "subject" else slice(spoilt, None)
            losses.append(functional.cross_entropy(values[asked], wanted[asked], label_smoothing=0.05))
        loss = torch.stack(losses).sum()
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _rate(step, options.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if done % 50 == 0 or done == options.steps:
            left = (time.monotonic() - began) / (done - first) * (options.steps - done)
            print(
                f"step {done} of {options.steps}: loss {loss.item():.3f}, {left:.0f} s left", file=sys.stderr
            )
        if done % options.checkpoint_every == 0 or done == options.steps:
            save_checkpoint(options.out, done, state, options.recipe())


def _batch_indices(options: JudgeOptions, step: int, count: int) -> np.ndarray:
    per_epoch = max(count // options.batch_size, 1)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([options.seed, epoch]).permutation(count)
    return order[place * options.batch_size : (place + 1) * options.batch_size]


def _rate(step: int, steps: int) -> float:
    warmup = max(steps // 20, 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def run(options: JudgeOptions) -> dict[str, object]:
    """Compose, train, test and save; returns what `judge.json` says about the judge."""
    corpus.fetch(corpus.EMOJI_FOLDER)
    torch.manual_seed(options.seed)
    specs = corpus_specs("train", options.seed, options.clips)
    judge = AttributeJudge(CLASSES, readings=deviations_of_readings())
    readings = np.array([list(readings_of(spec).values()) for spec in specs]) / list(judge.readings.values())
    cache = options.out / f"clips-seed{options.seed}-{judge.input_frames}x{judge.input_size_px}"
    shards = compose_shards(cache / "train", judge, specs, workers=options.workers)
    train(
        judge,
        lambda indices: read_clips(shards, indices),
        attribute_labels(specs),
        readings.astype(np.float32),
        options,
    )

    test_specs = corpus_specs("heldout", options.seed + 1, options.test_clips)
    test_shards = compose_shards(cache / "heldout", judge, test_specs, workers=options.workers)
    judge.eval().to("cpu")
    about = {
        "trained_on": "composed corpus clips of the train split, a fifth of them spoilt",
        "recipe": options.recipe(),
        **_test(judge, lambda indices: read_clips(test_shards, indices), test_specs),
    }
    judge.save(options.out, **about)
    return about


@torch.inference_mode()
def _test(
    judge: AttributeJudge, read: Callable[[np.ndarray], Tensor], specs: Sequence[ClipSpec]
) -> dict[str, object]:
    """How well it reads clips that it never saw, and how often it says so of spoilt ones."""
    predictions: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    numbers, refused = [], []
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(specs), 64):
        clips = pixels_from_frames(read(np.arange(start, min(start + 64, len(specs)))))
        logits, readings = judge(clips)
        for name, values in logits.items():
            predictions[name].append(values.argmax(dim=1).numpy())
        numbers.append(readings.numpy() * list(judge.readings.values()))
        of_spoilt = judge(spoil(clips, generator))[0]["subject"].argmax(dim=1).numpy()
        refused.append(of_spoilt == CLASSES["subject"].index(NONE))
    labels = attribute_labels(specs)
    read_back = {name: np.concatenate(parts) for name, parts in predictions.items()}
    shares = {
        name: bootstrap_share((found == labels[name]).astype(np.int64)) for name, found in read_back.items()
    } | {NONE: bootstrap_share(np.concatenate(refused).astype(np.int64))}
    wanted = np.array([list(readings_of(spec).values()) for spec in specs])
    errors = (np.concatenate(numbers) - wanted).std(axis=0) / list(judge.readings.values())
    return {
        "held_out_accuracy": {name: share.as_dict() for name, share in shares.items()},
        # 1 is as good as saying the same of every clip of a prompt.
        "held_out_errors": dict(zip(judge.readings, errors.round(3).tolist(), strict=True)),
        "confusions": _confusions(read_back, labels),
    }


def _confusions(predictions: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How often one class was read as another, the most frequent twelve."""
    counts: dict[str, int] = {}
    for name, predicted in predictions.items():
        for right, read in zip(labels[name], predicted, strict=True):
            if right != read:
                key = f"{CLASSES[name][right]} read as {CLASSES[name][read]}"
                counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:12])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(JudgeOptions, args=argv, description=__doc__)
    try:
        about = run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json_output:
        print(json.dumps(about))
    else:
        for name, share in dict(about["held_out_accuracy"]).items():  # type: ignore[call-overload]
            print(f"{name}: {share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}] of held-out clips")
        print(f"wrote {options.out / CONFIG_NAME}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
