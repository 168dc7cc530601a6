"""The rows of a comparison: ways to make a clip for a prompt, each with all that its clips depend on."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from swd_video.core.grid import PixelSize
from swd_video.core.pixels import frames_from_pixels, pixels_from_frames
from swd_video.cost.speed import Sampler
from swd_video.evaluation.config import RealRowConfig, StudentRowConfig, TeacherRowConfig
from swd_video.models.base import VideoModel
from swd_video.models.decoding import decode_whole
from swd_video.models.fingerprint import weights_digest
from swd_video.models.guidance import WeakerSelf, identity_of
from swd_video.models.teacher_sampling import chosen_guidance, sample_teacher
from swd_video.student.pipeline import ScaleWisePipeline


@runtime_checkable
class Request(Protocol):
    """What a clip must show: a prompt, or a real clip with its caption."""

    @property
    def caption(self) -> str:
        """The clip in words; samples of one prompt share it."""


@dataclass(frozen=True)
class PromptRequest:
    """One sample of a prompt."""

    caption: str
    sample: int


@dataclass(frozen=True)
class Row:
    """One row of a comparison.

    Attributes:
        key: Short name, used for files.
        make: Makes uint8 clips (batch, frames, height, width, 3) for requests, each from its own seed.
        identity: Whatever the clips depend on besides requests and seeds.
        modules: Networks to time and count apart; a row without any is not timed.
        fps: Frames per second of the clips.
    """

    key: str
    title: str
    make: Callable[[Sequence[Any], Sequence[int]], np.ndarray]
    identity: Mapping[str, Any]
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    fps: float = 16.0

    def digest(self, *more: object) -> str:
        """Eight hexadecimal digits that change with anything the clips depend on."""
        text = json.dumps([self.identity, *more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def sampler(self, requests: Sequence[Request], seed: int) -> Sampler:
        """One batch of clips, for timing."""
        return Sampler(lambda: self.make(requests, [seed + i for i in range(len(requests))]), self.modules)


def prompt_requests(prompts: Sequence[str], samples_per_prompt: int) -> list[PromptRequest]:
    """Every sample of every prompt, those of one prompt together."""
    return [PromptRequest(prompt, sample) for prompt in prompts for sample in range(samples_per_prompt)]


def teacher_row(section: TeacherRowConfig, model: VideoModel, size: PixelSize) -> Row:
    """A teacher in many steps, with classifier-free guidance; what its pipeline does where none is given.

    Raises:
        ValueError: if the size is not legal, or there is a negative prompt but no guidance.
    """
    spec = model.spec
    spec.compression.latent_size(size)
    guidance = chosen_guidance(spec, section.guidance_scale, section.negative_prompt, f"{section.key}: ")
    settings: dict[str, Any] = {
        "steps": section.steps,
        "guidance_scale": guidance,
        "negative_prompt": section.negative_prompt,
        "shift": section.shift,
    }
    if section.guidance_scale_2 is not None:
        settings["guidance_scale_2"] = section.guidance_scale_2
    weaker = None if section.weaker is None else WeakerSelf(section.weaker, model, f"{section.key}: weaker")

    @torch.no_grad()
    def make(requests: Sequence[Request], seeds: Sequence[int]) -> np.ndarray:
        prompts = [request.caption for request in requests]
        latents = sample_teacher(
            model, prompts, size, generator=_generators(seeds), weaker=weaker, **settings
        )
        return to_frames(decode_whole(model, latents))

    identity = {
        "kind": "teacher",
        "size": str(size),
        **settings,
        **_identity(model, model.pipe.scheduler),
        "text_length": spec.text_length,
    }
    if spec.embedded_guidance is not None:
        identity["embedded_guidance"] = spec.embedded_guidance
    if weaker is not None:
        identity["weaker"] = identity_of(weaker.config)
    title = section.title or f"teacher, {section.steps} steps, guidance {guidance:g}{_decoder_words(model)}"
    return Row(section.key, title, make, identity, _modules(model), spec.fps)


def student_row(section: StudentRowConfig, pipe: ScaleWisePipeline, size: PixelSize) -> Row:
    """A student with its own schedule and without guidance.

    Raises:
        ValueError: If its clips are of another size than the others'.
    """
    schedule = pipe.scheduler.schedule
    stages = " → ".join(f"{stage.grid} from {stage.sigma:g}" for stage in schedule)
    title = section.title or f"{section.key} ({stages}){_decoder_words(pipe.model)}"
    target = pipe.model.shown_size(schedule.target)
    if target != size:
        raise ValueError(
            f"{title}: its clips are {target}, the others' are {size}; give another size or student."
        )

    def make(requests: Sequence[Request], seeds: Sequence[int]) -> np.ndarray:
        prompts = [request.caption for request in requests]
        clips = torch.from_numpy(
            np.asarray(pipe(prompt=prompts, generator=_generators(seeds), output_type="np").frames)
        )
        check_numbers(clips)
        return (clips.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    # The same weights make other clips where frames are counted otherwise.
    identity = {"kind": "student", "positions": pipe.positions, **_identity(pipe.model, pipe.scheduler)}
    identity |= {name: weights_digest(network) for name, network in pipe.scheduler.networks.items()}
    modules = _modules(pipe.model) | pipe.scheduler.networks
    return Row(section.key, title, make, identity, modules, pipe.fps)


def real_row(
    section: RealRowConfig, size: PixelSize, fps: float, clips: Sequence[Any], codec: VideoModel | None = None
) -> Row:
    """Clips that no model made, or these through a VAE and back: the best that a sampler of its latents can do."""
    source = section.clips

    @torch.no_grad()
    def make(requests: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
        frames = np.stack([source.frames(clip, size, fps) for clip in requests])
        if codec is None:
            return frames
        pixels = pixels_from_frames(torch.from_numpy(frames).to(codec.device).permute(0, 4, 1, 2, 3))
        return to_frames(decode_whole(codec, codec.encode_video(pixels)))

    identity: dict[str, Any] = {"kind": "real", "size": str(size), "fps": fps, **source.content(clips)}
    title = section.title or "real clips (the floor)"
    if codec is not None:
        vae = {"dtype": str(codec.vae.dtype), "vae": weights_digest(codec.vae)}
        identity = {"kind": "codec", "of": identity, **vae, **_decoder_digest(codec)}
        title = (
            section.title or f"real clips through the VAE of {section.through_vae_of}{_decoder_words(codec)}"
        )
    return Row(section.key, title, make, identity, fps=fps)


def check_numbers(pixels: Tensor) -> None:
    """Refuse what a model that overflowed has made: 8-bit pictures of it would be black."""
    if not torch.isfinite(pixels).all():
        raise ValueError("the model made values that are not numbers; try dtype float32, or train it again.")


def to_frames(
    pixels: Float[Tensor, "batch 3 frames height width"],
) -> UInt8[np.ndarray, "batch frames height width 3"]:
    """Pixels in [-1, 1] to 8-bit pictures.

    Raises:
        ValueError: If some are no numbers.
    """
    check_numbers(pixels)
    return frames_from_pixels(pixels).permute(0, 2, 3, 4, 1).cpu().numpy()


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _modules(model: VideoModel) -> dict[str, nn.Module]:
    return {
        "transformer": model.transformer,
        "text_encoder": model.pipe.text_encoder,
        **({"vae": model.vae.decoder} if model.decoder is None else {"decoder": model.decoder}),
    }


def _identity(model: VideoModel, scheduler: Any) -> dict[str, str]:
    settings = sorted(dict(scheduler.config).items(), key=str)
    parts = sorted(model.pipe.components.items())
    others = [part for name, part in parts if isinstance(part, nn.Module) and name != "transformer"]
    return {
        "weights": weights_digest(model.transformer, *others),
        "dtype": str(model.vae.dtype),
        "scheduler": f"{type(scheduler).__name__} {settings}",
        **_decoder_digest(model),
    }


def _decoder_digest(model: VideoModel) -> dict[str, str]:
    return {} if model.decoder is None else {"decoder": weights_digest(model.decoder)}


def _decoder_words(model: VideoModel) -> str:
    return "" if model.decoder is None else f", through decoder {weights_digest(model.decoder)[:8]}"
