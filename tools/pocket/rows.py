"""The rows of the pocket table: ways to make a clip for a prompt, and their clips on disk."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swd_video.core.grid import PixelSize
from swd_video.evaluation.speed import Sampler
from swd_video.models.base import VideoModel
from tools.pocket.corpus import ClipSpec, compose_clip, corpus_specs


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        key: Short name, used for files.
        title: What the table says.
        make: Makes uint8 clips (batch, frames, height, width, 3) for specs, each from its own seed.
        identity: Whatever the clips depend on besides specs and seeds.
        modules: Networks to time and count apart; a row without any is not timed.
    """

    key: str
    title: str
    make: Callable[[Sequence[ClipSpec], Sequence[int]], np.ndarray]
    identity: Mapping[str, Any]
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def digest(self, *more: object) -> str:
        """Eight hexadecimal digits that change with anything the clips depend on."""
        text = json.dumps([self.identity, *more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def sampler(self, specs: Sequence[ClipSpec], seed: int) -> Sampler:
        """One batch of clips, for timing."""
        return Sampler(lambda: self.make(specs, [seed + i for i in range(len(specs))]), self.modules)


def evaluation_specs(seed: int, count: int, samples_per_prompt: int) -> list[ClipSpec]:
    """Clips to judge: held-out prompts, each `samples_per_prompt` times with different seeds."""
    prompts = corpus_specs("heldout", seed, -(-count // samples_per_prompt))
    seeds = np.random.default_rng([seed, 11]).integers(0, 2**31, size=(len(prompts), samples_per_prompt))
    specs = [
        ClipSpec(prompt.subject, prompt.motion, prompt.background, int(seed))
        for prompt, row in zip(prompts, seeds, strict=True)
        for seed in row
    ]
    return specs[:count]


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 over all weights of some networks."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def real_row(size: PixelSize) -> Row:
    """Composed clips of the same prompts: what every other row is compared with."""
    return Row(
        key="real",
        title="real clips (the floor)",
        make=lambda specs, seeds: np.stack([compose_clip(spec, size) for spec in specs]),
        identity={"kind": "real", "size": str(size)},
    )


def codec_row(model: VideoModel, vae: nn.Module, size: PixelSize, dtype: torch.dtype) -> Row:
    """The same real clips through the VAE and back: the best that any sampler over its latents can do."""

    @torch.inference_mode()
    def make(specs: Sequence[ClipSpec], seeds: Sequence[int]) -> np.ndarray:
        frames = torch.from_numpy(np.stack([compose_clip(spec, size) for spec in specs]))
        pixels = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
        decoded = model.decode(model.encode_video(pixels)).float()
        return _to_frames(decoded.permute(0, 2, 3, 4, 1) * 0.5 + 0.5)

    identity = {"kind": "codec", "size": str(size), "dtype": str(dtype), "vae": weights_digest(vae)}
    return Row("codec", "real clips through the VAE", make, identity)


def teacher_row(
    pipe: Any, *, steps: int, guidance: float, size: PixelSize, text_length: int, negative_prompt: str = ""
) -> Row:
    """The teacher as diffusers samples it, with classifier-free guidance."""
    call = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_frames": size.frames,
        "height": size.height,
        "width": size.width,
        "max_sequence_length": text_length,
    }

    def make(specs: Sequence[ClipSpec], seeds: Sequence[int]) -> np.ndarray:
        return _call(pipe, specs, seeds, negative_prompt=[negative_prompt] * len(specs), **call)

    identity = {"kind": "teacher", **call, "negative_prompt": negative_prompt, **_pipe_identity(pipe)}
    return Row(
        f"teacher-{steps}", f"teacher, {steps} steps, guidance {guidance:g}", make, identity, _modules(pipe)
    )


def student_row(key: str, title: str, pipe: Any, size: PixelSize) -> Row:
    """A student with its own schedule and without guidance.

    Raises:
        ValueError: If its clips are of another size than the table's.
    """
    target = pipe.compression.pixel_size(pipe.scheduler.schedule.target)
    if target != size:
        raise ValueError(
            f"{title}: its clips are {target}, the table's are {size}; give --size or another student."
        )

    def make(specs: Sequence[ClipSpec], seeds: Sequence[int]) -> np.ndarray:
        return _call(pipe, specs, seeds)

    return Row(key, title, make, {"kind": "student", **_pipe_identity(pipe)}, _modules(pipe))


def store_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write compressed arrays under a temporary name, then move them in place."""
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def make_clips(
    row: Row, specs: Sequence[ClipSpec], folder: Path, *, seed: int, batch_size: int
) -> tuple[Path, np.ndarray]:
    """All clips of a row, made in batches that are kept; a second run makes only those that are missing.

    Args:
        row: The row.
        specs: What the clips must show.
        folder: Where rows keep their clips.
        seed: Clip i starts from the noise of seed `seed * 1_000_003 + i`, the same in every row.
        batch_size: Clips in one forward pass.

    Returns:
        The row's own folder, and uint8 clips (clips, frames, height, width, 3).
    """
    home = folder / f"{row.key}-{row.digest([str(spec) for spec in specs], seed, batch_size)}"
    home.mkdir(parents=True, exist_ok=True)
    batches = []
    began, made = time.monotonic(), 0
    for start in range(0, len(specs), batch_size):
        path = home / f"{start // batch_size:04d}.npz"
        chunk = specs[start : start + batch_size]
        if not path.exists():
            clips = row.make(chunk, [seed * 1_000_003 + start + i for i in range(len(chunk))])
            store_arrays(path, {"frames": clips})
            made += len(chunk)
            done = start + len(chunk)
            left = (time.monotonic() - began) / made * (len(specs) - done)
            print(f"{row.key}: {done} of {len(specs)} clips, about {left:.0f} s left", file=sys.stderr)
        with np.load(path) as stored:
            batches.append(stored["frames"])
    return home, np.concatenate(batches)


def _call(pipe: Any, specs: Sequence[ClipSpec], seeds: Sequence[int], **arguments: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prompts = [spec.caption for spec in specs]
    clips = pipe(prompt=prompts, generator=generators, output_type="np", **arguments).frames
    return _to_frames(torch.from_numpy(np.asarray(clips)))


def _to_frames(pixels: Tensor) -> np.ndarray:
    """[0, 1] to uint8."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _modules(pipe: Any) -> dict[str, nn.Module]:
    return {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder, "vae": pipe.vae.decoder}


def _pipe_identity(pipe: Any) -> dict[str, str]:
    settings = sorted(dict(pipe.scheduler.config).items(), key=str)
    return {
        "weights": weights_digest(pipe.transformer, pipe.text_encoder, pipe.vae),
        "dtype": str(pipe.transformer.dtype),
        "scheduler": f"{type(pipe.scheduler).__name__} {settings}",
    }
