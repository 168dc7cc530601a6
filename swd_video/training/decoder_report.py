"""A decoder beside the VAE whose place it takes, on clips that it never saw: pictures, and figures."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
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
from swd_video.files import write_json
from swd_video.models.base import VideoModel

_CLIPS_SHOWN, _CLIPS_AT_ONCE = 4, 4


class HeldOutClips:
    """Clips by which decoders are compared; read when they are first asked for, and encoded by the VAE.

    Args:
        model: whose VAE.
        clips: that nothing was trained on.
        size: of the clips as a decoder makes them.
        upscale: pixels of that along height and width for each of the VAE.
        folder: gets samples.
    """

    def __init__(
        self, model: VideoModel, clips: list[Clip], size: PixelSize, upscale: int, folder: Path
    ) -> None:
        self._model, self._clips, self._size, self._folder = model, clips, size, folder
        self._vae_size = PixelSize(size.frames, size.height // upscale, size.width // upscale)

    @cached_property
    def pixels(self) -> Float[Tensor, "clips 3 frames height width"]:
        """All clips that can be read.

        Raises:
            ConfigError: if there is none.
        """
        read = [pixels_or_reason(clip, self._size, self._model.spec.fps) for clip in self._clips]
        pixels = [clip for clip in read if isinstance(clip, Tensor)]
        if not pixels:
            raise ConfigError(f"held_out: none of {len(read)} clips can be read: {read[0]}")
        return torch.cat(pixels)

    @cached_property
    def latents(self) -> Float[Tensor, "clips channels latent_frames latent_height latent_width"]:
        """What the VAE makes of them."""
        small = resize_pixels(self.pixels, self._vae_size)
        return torch.cat([self._model.encode_video(part).cpu() for part in small.split(_CLIPS_AT_ONCE)])

    @cached_property
    def through_vae(self) -> Float[Tensor, "clips 3 frames height width"]:
        """What the VAE makes of those, enlarged where a decoder makes larger clips."""
        with torch.no_grad():
            decoded = [self._model.decode(part).float().cpu() for part in self.latents.split(_CLIPS_AT_ONCE)]
        return resize_pixels(torch.cat(decoded), self._size).clamp(-1, 1)

    def decoded_by(
        self, decoder: StreamingDecoder, count: int | None = None
    ) -> Float[Tensor, "clips 3 frames height width"]:
        """What a decoder makes of all of them, or of the first."""
        repeated = self._model.spec.compression.repeated_frames
        parts = self.latents[:count, :, repeated:].split(_CLIPS_AT_ONCE)
        return torch.cat([torch.cat(list(decoder.stream(part)), dim=2).float().cpu() for part in parts])

    def write_samples(self, decoder: StreamingDecoder, name: str) -> Path:
        """Write one moving picture: a row for each of some clips: the clip, through the VAE, through the decoder."""
        columns = [self.pixels, self.through_vae, self.decoded_by(decoder, _CLIPS_SHOWN)]
        rows = torch.cat([column[:_CLIPS_SHOWN] for column in columns], dim=-1)
        frames = frames_from_pixels(torch.cat(list(rows), dim=-2)).permute(1, 2, 3, 0).numpy()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.webp"
        write_preview(path, np.ascontiguousarray(frames), self._model.spec.fps)
        return path

    def report(self, decoder: StreamingDecoder, path: Path) -> dict[str, Any]:
        """Compare, write it down, and give it back.

        Returns:
            `{"clips": number, "vae": figures, "decoder": figures, "difference": figures}`: `psnr_db`, `ssim`,
            `laplacian_energy` (as a share of the clips' own) and `motion_error`, each with `value`, `low` and `high`,
            the interval of 95 % over clips; "difference" is paired, decoder less VAE.
        """
        vae, fast = self._measure(self.through_vae), self._measure(self.decoded_by(decoder))
        report = {
            "clips": len(self.pixels),
            "parameters": sum(weight.numel() for weight in decoder.parameters()),
            "vae": _figures(vae),
            "decoder": _figures(fast),
            "difference": _figures({name: fast[name] - vae[name] for name in vae}),
        }
        write_json(path, report, durable=True)
        self.write_samples(decoder, "final")
        return report

    def _measure(self, decoded: Tensor) -> dict[str, np.ndarray]:
        detail = laplacian_energy(self.pixels).mean()
        measured = {
            "psnr_db": psnr_db(decoded, self.pixels),
            "ssim": ssim(decoded, self.pixels),
            "laplacian_energy": laplacian_energy(decoded) / detail,
            "motion_error": motion_error(decoded, self.pixels),
        }
        return {name: values.double().numpy() for name, values in measured.items()}


def _figures(measured: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    estimates = {name: bootstrap_mean(values) for name, values in measured.items()}
    return {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in estimates.items()}
