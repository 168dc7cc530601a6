"""What a decoder learns from: clips as they were filmed, and their latents."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.grid import LatentSize, PixelSize, window_size
from swd_video.core.pixels import frames_from_pixels, pixels_from_frames
from swd_video.core.randomness import keyed_generator
from swd_video.core.windows import Window, draw_window
from swd_video.data.clips import clip_pixels
from swd_video.data.latent_cache import LatentCache
from swd_video.data.manifest import Clip
from swd_video.models.spec import ModelSpec
from swd_video.training.decoder_imitation import Imitated


@dataclass(frozen=True)
class DecoderBatch:
    """Windows of some clips.

    Attributes:
        latents: normalised.
        pixels: of the same windows.
        is_start: whether the windows begin with the clips, so that the first latent frame holds one picture.
    """

    latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    pixels: Float[Tensor, "batch 3 frames height width"]
    is_start: bool


class DecoderClips:
    """Pairs of latents and pixels, drawn by step.

    Args:
        clips: latents of a manifest, encoded by `swd-video encode`.
        manifest: the same clips as files.
        kept_back: places in the cache that are never drawn.
        grid: which latents.
        spec: of the model.
        upscale: pixels along height and width for each of the VAE.
        in_memory: clips kept once they are read.
        imitated: latents of no clip, with what is to be shown of them; they follow the clips.

    Raises:
        ConfigError: if no clip is left to draw.
    """

    def __init__(
        self,
        clips: LatentCache,
        manifest: list[Clip],
        kept_back: set[int],
        grid: LatentSize,
        spec: ModelSpec,
        upscale: int,
        in_memory: int,
        imitated: Imitated | None = None,
    ) -> None:
        self._clips, self._manifest, self._grid, self._spec = clips, manifest, grid, spec
        self._imitated = imitated
        self._temporal, self._spatial = spec.compression.temporal, spec.compression.spatial * upscale
        size = spec.compression.pixel_size(grid)
        self.size = PixelSize(size.frames, size.height * upscale, size.width * upscale)
        self._order = [place for place in range(len(clips)) if place not in kept_back]
        if not self._order:
            raise ConfigError(f"held_out.count: all {len(clips)} clips are kept back; name fewer.")
        self._frames = lru_cache(maxsize=in_memory)(self._read)

    def draw(
        self, step: int, seed: int, batch_size: int, frames: int | None, crop: int | None, imitated: int = 0
    ) -> DecoderBatch:
        """The batch of a step: one window, at the same place of every clip; so many of them, the last, are imitated."""
        generator = keyed_generator(seed, "decoder clips", step)
        count = len(self._order)
        chosen = torch.randperm(count, generator=generator)
        rows = [self._order[int(chosen[number % count])] for number in range(batch_size - imitated)]
        if imitated:
            assert self._imitated is not None
            drawn = torch.randint(self._imitated.count, (imitated,), generator=generator)
            rows += [len(self._clips) + int(number) for number in drawn]
        repeated = self._spec.compression.repeated_frames
        grid = LatentSize(self._grid.frames - repeated, self._grid.height, self._grid.width)
        window = draw_window(
            grid, window_size(grid, frames, None if crop is None else (crop, crop)), generator
        )
        latents = torch.stack([self._latents(row) for row in rows])
        pixels = torch.stack([self._frames(row) for row in rows])
        start, top, left = window.start
        shown = Window(
            (max(0, self._temporal * (start - 1) + 1), self._spatial * top, self._spatial * left),
            PixelSize(
                self._temporal * (window.size.frames - (start == 0)) + (start == 0),
                self._spatial * window.size.height,
                self._spatial * window.size.width,
            ),
        )
        return DecoderBatch(window.cut(latents), pixels_from_frames(shown.cut(pixels)), start == 0)

    def ahead(self, draw: Callable[[int], DecoderBatch], steps: range) -> Iterator[DecoderBatch]:
        """The batches of some steps, each read while the one before is worked on."""
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for step in steps:
                now = reader.submit(draw, step) if coming is None else coming
                coming = reader.submit(draw, step + 1) if step + 1 < steps.stop else None
                yield now.result()

    def _latents(self, row: int) -> Float[Tensor, "channels frames height width"]:
        if self._imitated is not None and row >= len(self._clips):
            latents = self._imitated.latents(row - len(self._clips))
        else:
            latents = self._clips.get(row, [self._grid])["latents"][self._grid]
        return latents[:, self._spec.compression.repeated_frames :].float()

    def _read(self, row: int) -> UInt8[Tensor, "3 frames height width"]:
        if self._imitated is not None and row >= len(self._clips):
            return self._imitated.pixels(row - len(self._clips))
        clip = self._manifest[int(self._clips.get(row, [])["key"])]
        return frames_from_pixels(clip_pixels(clip, self.size, self._spec.fps)[0])
