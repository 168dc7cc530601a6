"""Composed clips in memory, and contact sheets to look at while something trains."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swd_video.core.grid import PixelSize
from swd_video.core.pixels import frames_from_pixels, pixels_from_frames
from swd_video.files import whole_file
from tools.pocket.corpus import CLIP_SIZE, compose_clip, corpus_specs


def composed_frames(
    split: str, seed: int, count: int, cache: Path, size: PixelSize = CLIP_SIZE
) -> np.ndarray:
    """uint8 clips (count, frames, height, width, 3), composed once and kept in `cache` as .npy."""
    path = cache / f"{split}-{seed}-{count}-{size}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            clips = list(
                pool.map(partial(compose_clip, size=size), corpus_specs(split, seed, count), chunksize=16)
            )
        with whole_file(path) as draft, draft.open("wb") as file:
            np.save(file, np.stack(clips))
    return np.load(path, mmap_mode="c")  # torch wants to be able to write


def to_pixels(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (batch, frames, height, width, 3) to float32 pixels in [-1, 1], batch channels frames height width."""
    whole = frames if isinstance(frames, Tensor) else torch.from_numpy(np.ascontiguousarray(frames))
    return pixels_from_frames(whole.permute(0, 4, 1, 2, 3))


def save_sheet(path: Path, clips: list[Tensor], columns: int = 3) -> None:
    """One PNG: a row for each clip (channels frames height width, in [-1, 1]), `columns` frames of each."""
    rows = []
    for clip in clips:
        picked = clip[:, torch.linspace(0, clip.shape[1] - 1, columns).round().long()]
        rows.append(torch.cat(list(picked.unbind(1)), dim=-1))
    sheet = frames_from_pixels(torch.cat(rows, dim=1)).permute(1, 2, 0).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        Image.fromarray(sheet.numpy()).save(draft, format="PNG")
