"""A decoder beside the VAE whose place it takes, on clips that it never saw: pictures, and figures."""

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swd_video.config import ConfigError
from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import PixelSize
from swd_video.core.interval import bootstrap_mean
from swd_video.core.likeness import laplacian_energy, motion_error, psnr_db, ssim
from swd_video.core.pixels import frames_from_pixels
from swd_video.core.resize import resize_pixels
from swd_video.data.clips import pixels_or_reason
from swd_video.data.manifest import Clip
from swd_video.data.video import write_preview
from swd_video.files import plain_json, write_json
from swd_video.models.base import VideoModel

_CLIPS_SHOWN = 4


class HeldOutClips:
    """Clips by which decoders are compared, one after another, so that few of them are in memory.

    The size is that of the clips as a decoder makes them, `upscale` times that of the VAE along height and width.
    """

    def __init__(
        self, model: VideoModel, clips: list[Clip], size: PixelSize, upscale: int, folder: Path
    ) -> None:
        self._model, self._clips, self._size, self._folder = model, clips, size, folder
        self._vae_size = PixelSize(size.frames, size.height // upscale, size.width // upscale)

    def write_samples(self, decoder: StreamingDecoder, name: str) -> Path:
        """Write one moving picture: a row for each of some clips: the clip, through the VAE, through the decoder."""
        rows = [
            torch.cat([pixels, through_vae, self._through(decoder, latents)], dim=-1)[0]
            for pixels, latents, through_vae in self._shown
        ]
        frames = frames_from_pixels(torch.cat(rows, dim=-2)).permute(1, 2, 3, 0).numpy()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.webp"
        write_preview(path, np.ascontiguousarray(frames), self._model.spec.fps)
        return path

    def report(self, decoder: StreamingDecoder, path: Path) -> dict[str, Any]:
        """Compare, write it down, and give it back; clips that cannot be read are said on stderr.

        Returns:
            `clips`, `skipped` and `parameters`, all numbers, and figures of `vae`, `decoder` and their `difference`:
            `psnr_db`, `ssim`, `laplacian_energy` (as a share of the clips' own) and `motion_error`, each with `value`,
            `low` and `high`, the interval of 95 % over clips. The difference is paired, decoder less VAE.

        Raises:
            ConfigError: if no clip can be read.
        """
        detail, vae, fast = [], [], []
        for pixels, latents in self._read(print_skipped=True):
            detail.append(laplacian_energy(pixels).item())
            vae.append(_measure(self._through_vae(latents), pixels))
            fast.append(_measure(self._through(decoder, latents), pixels))
        ours, theirs = (_columns(measured, float(np.mean(detail))) for measured in (fast, vae))
        self.write_samples(decoder, "final")
        report: dict[str, Any] = {
            "clips": len(detail),
            "skipped": len(self._clips) - len(detail),
            "parameters": sum(weight.numel() for weight in decoder.parameters()),
            "vae": _figures(theirs),
            "decoder": _figures(ours),
            "difference": _figures({name: ours[name] - theirs[name] for name in ours}),
        }
        report = plain_json(report)  # intervals of one clip are open
        write_json(path, report, durable=True)
        return report

    @cached_property
    def _shown(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        read = islice(self._read(), _CLIPS_SHOWN)
        return [(pixels, latents, self._through_vae(latents)) for pixels, latents in read]

    def _read(self, print_skipped: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Each clip that can be read: pixels, and the VAE's latents of them."""
        reason, found = "there is none", False
        for clip in self._clips:
            pixels = pixels_or_reason(clip, self._size, self._model.spec.fps)
            if isinstance(pixels, str):
                reason = f"{clip.name}: {pixels}"
                if print_skipped:
                    print(f"skipped {reason}", file=sys.stderr)
                continue
            found = True
            yield pixels, self._model.encode_video(resize_pixels(pixels, self._vae_size)).cpu()
        if not found:
            raise ConfigError(f"held_out: none of {len(self._clips)} clips can be read; {reason}")

    @torch.no_grad()
    def _through_vae(self, latents: Tensor) -> Tensor:
        """What the VAE makes of latents, enlarged where a decoder makes larger clips."""
        return resize_pixels(self._model.decode(latents).float().cpu().clamp(-1, 1), self._size)

    def _through(self, decoder: StreamingDecoder, latents: Tensor) -> Tensor:
        """What a decoder makes of them."""
        repeated = self._model.spec.compression.repeated_frames
        return torch.cat(list(decoder.stream(latents[:, :, repeated:])), dim=2).float().cpu()


def _measure(decoded: Tensor, pixels: Tensor) -> dict[str, float]:
    return {
        "psnr_db": psnr_db(decoded, pixels).item(),
        "ssim": ssim(decoded, pixels).item(),
        "laplacian_energy": laplacian_energy(decoded).item(),
        "motion_error": motion_error(decoded, pixels).item(),
    }


def _columns(measured: list[dict[str, float]], detail: float) -> dict[str, np.ndarray]:
    columns = {name: np.array([row[name] for row in measured]) for name in measured[0]}
    return columns | {"laplacian_energy": columns["laplacian_energy"] / detail}


def _figures(measured: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    estimates = {name: bootstrap_mean(values) for name, values in measured.items()}
    return {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in estimates.items()}
