"""Frozen networks through which the MMD looks at clips, of latents or of pixels, and what they are shown."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt, SerializeAsAny
from torch import Tensor

from swd_video.config import ConfigError, Section, or_from_outside
from swd_video.core.flow import add_noise
from swd_video.core.grid import LatentSize, window_size
from swd_video.core.randomness import SampleDraws
from swd_video.core.windows import Window, draw_window
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.pixel_encoders import PixelEncoder, TransformersEncoder, TransNetEncoder
from swd_video.models.recomputation import decode_clips
from swd_video.models.spec import ModelSpec
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import Blocks, ClipPair, NoiseLevels
from swd_video.objectives.passes import Pass
from swd_video.student.student_file import PixelNetwork

_LEVELS = NoiseLevels().model_dump()
TokenGrid = tuple[int, int, int]
Tokens = dict[int, Tensor]
"""By block: batch, frames, height, width, channels."""
Whose = Literal["predicted", "target"]
"""The student's clips, or the true ones."""


class WindowConfig(Section):
    """What encoders of pixels are shown of each clip: one window for all clips of a stage, drawn anew for every step.

    Student's clip and true clip are cut alike.
    """

    frames: int | None = Field(default=5, ge=1)
    """Latent frames, consecutive, of longer stages; null shows all."""
    crop: tuple[PositiveInt, PositiveInt] | None = (32, 32)
    """Height and width in latents, of larger stages; null shows whole pictures."""
    through: Literal["vae", "decoder"] = "vae"
    """What decodes it: the VAE, or the fast decoder that `load.decoder` names, for a fraction of work and memory."""

    def size(self, grid: LatentSize) -> LatentSize:
        """The size of a window of a grid."""
        return window_size(grid, self.frames, self.crop)


class Comparison:
    """The clips of a micro-batch as they are compared: with the same noise, or cut to the same window.

    Each `group` consecutive clips get one noise level.
    """

    def __init__(
        self, networks: Networks, clips: ClipPair, draws: SampleDraws, group: int, window: WindowConfig
    ) -> None:
        self.networks, self.clips = networks, clips
        target, device = clips.target_x0, clips.predicted_x0.device
        self._noise = draws.normal_like(target)
        # The first clip of a group draws for all of it.
        self._share = draws.uniform()[::group].repeat_interleave(group).to(device)
        self._draws, self._shown = draws, window
        self._decoded: dict[Whose, Tensor] = {}

    def noised(self, clips: Whose, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
        """(clips, noise levels), for levels drawn evenly between two."""
        sigma = sigma_min + (sigma_max - sigma_min) * self._share
        return add_noise(self._x0(clips), self._noise, sigma), sigma

    def pixels(self, clips: Whose) -> Tensor:
        """One window of them, decoded once for all networks."""
        if clips not in self._decoded:
            model = self.networks.model
            decode = model.decode if self._shown.through == "vae" else model.decode_by_decoder
            self._decoded[clips] = decode_clips(decode, self._window.cut(self._x0(clips)))
        return self._decoded[clips]

    @cached_property
    def _window(self) -> Window:
        grid = LatentSize(*self.clips.target_x0.shape[2:])
        return draw_window(grid, self._shown.size(grid), self._draws.shared)

    def _x0(self, clips: Whose) -> Tensor:
        return self.clips.predicted_x0 if clips == "predicted" else self.clips.target_x0


class Encoder(ABC):
    """A frozen network that gives tokens to compare.

    Attributes:
        name: for messages.
        num_blocks: that it has.
    """

    name: str
    num_blocks: int

    @abstractmethod
    def grid(self, latents: LatentSize, block: int) -> TokenGrid:
        """Tokens along frames, height and width of a stage's clips; frames that repeat each other do not count."""

    @abstractmethod
    def channels(self, block: int) -> int:
        """Of a token after a block."""

    @abstractmethod
    def see(
        self, comparison: Comparison, clips: Whose, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> Tokens:
        """Tokens of some clips; gradients reach these.

        Args:
            comparison: the student's clips and the true ones, which are seen alike.
            clips: which of them.
            sigmas: lowest and highest noise level, for networks that see noise.
            blocks: of the network, from 0.
        """

    def tokens(
        self, comparison: Comparison, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> tuple[Tokens, Tokens]:
        """Tokens of (student's clips, true clips); gradients reach the student's clips alone."""
        with torch.no_grad():
            of_target = self.see(comparison, "target", sigmas, blocks)
        return self.see(comparison, "predicted", sigmas, blocks), of_target


class EncoderConfig(Section, ABC):
    """A section that turns into an encoder. One from outside of the package has `kind: str`, which names it."""

    @property
    def sees_noise(self) -> bool:
        """Whether clips are noised before they are compared."""
        return False

    @property
    def sees_pixels(self) -> bool:
        """Whether clips are decoded, in a window."""
        return False

    @property
    def record(self) -> PixelNetwork | None:
        """Its name for the student's record, where it sees pixels."""
        return None

    @abstractmethod
    def build(self, key: str, spec: ModelSpec, window: WindowConfig, device: torch.device) -> Encoder:
        """Make the encoder.

        Args:
            key: of this section, for messages.
            spec: of the teacher.
            window: what networks of pixels are shown.
            device: where to run it.

        Raises:
            ConfigError: if it cannot be loaded.
        """


class PixelEncoderConfig(EncoderConfig):
    """The section of an encoder that sees pixels."""

    @property
    def sees_pixels(self) -> bool:
        """It does."""
        return True

    @property
    def record(self) -> PixelNetwork | None:
        """Its kind; of a network that is found by a name, better that."""
        return PixelNetwork(str(getattr(self, "kind", "")))

    def build(self, key: str, spec: ModelSpec, window: WindowConfig, device: torch.device) -> Encoder:
        """Load the network."""
        fewest = 1 + spec.compression.repeated_frames
        if window.frames is not None and window.frames < fewest:
            raise ConfigError(
                f"{key}: a window of {window.frames} latent frames shows nothing, as a {spec.family} model repeats "
                f"the first; set window.frames to {fewest} or more."
            )
        try:
            return PixelFeatures(self.load(device), spec, window)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None

    @abstractmethod
    def load(self, device: torch.device) -> PixelEncoder:
        """The network; on the meta device without weights.

        Raises:
            ValueError: if it cannot be loaded.
        """


class _BlocksConfig(EncoderConfig):
    kind: Any
    clean: bool = False
    """See the latents as they are, at noise level 0; else noised to a level between `sigma_min` and `sigma_max`."""

    @property
    def sees_noise(self) -> bool:
        """Unless it shall not."""
        return not self.clean

    def build(self, key: str, spec: ModelSpec, window: WindowConfig, device: torch.device) -> Encoder:
        """Nothing has to be loaded."""
        return BlockFeatures(self.kind, spec, self.clean)


class TeacherEncoderConfig(_BlocksConfig):
    """The teacher's transformer blocks, which see latents."""

    kind: Literal["teacher"] = "teacher"


class CriticEncoderConfig(_BlocksConfig):
    """The blocks of the critic of `loss.dmd`, which learns beside the student, as in the public code of SwD."""

    kind: Literal["critic"] = "critic"


class TransformersEncoderConfig(PixelEncoderConfig):
    """Of transformers: VideoMAE, V-JEPA 2, TimeSformer, ViViT; by frames DINOv2, ViT, MobileNetV2. It sees pixels."""

    kind: Literal["transformers"] = "transformers"
    name: str = Field(min_length=1)
    """Its folder or hub name."""
    frames: int | None = Field(default=None, ge=1)
    """Pictures that it is shown of a window; null is what it was trained with, or all where it sees one at a time."""

    @property
    def record(self) -> PixelNetwork:
        """Where a folder lies says nothing on another machine; what is in it does."""
        folder = Path(self.name)
        if not folder.is_dir():
            return PixelNetwork(self.name)
        return PixelNetwork(folder.resolve().name, fingerprint_folders([folder]))

    def load(self, device: torch.device) -> PixelEncoder:
        """From its folder or the hub."""
        return TransformersEncoder(self.name, self.frames, device)


class TransNetEncoderConfig(PixelEncoderConfig):
    """The trunk of TransNetV2, which finds cuts in films (arXiv 2008.04838). It sees pixels."""

    kind: Literal["transnetv2"] = "transnetv2"
    weights: str
    """Safetensors file that `python -m tools.transnetv2` makes from the published weights."""
    short_side_px: int = Field(default=27, ge=8)
    """Short side that pictures are resized to; it was trained on pictures of 27x48."""

    def load(self, device: torch.device) -> PixelEncoder:
        """From its file."""
        return TransNetEncoder(self.weights, self.short_side_px, device)


AnyEncoder = Annotated[
    SerializeAsAny[
        Annotated[
            TeacherEncoderConfig | CriticEncoderConfig | TransformersEncoderConfig | TransNetEncoderConfig,
            Field(discriminator="kind"),
        ]
    ],
    or_from_outside("encoders", EncoderConfig),
]


AnyPixelEncoder = Annotated[
    SerializeAsAny[Annotated[TransformersEncoderConfig | TransNetEncoderConfig, Field(discriminator="kind")]],
    or_from_outside("encoders", PixelEncoderConfig),
]


class BlockFeatures(Encoder):
    """Blocks of the transformer, which see latents.

    They are seen at noise level 0 where `clean` says so, whatever `sigmas` are.
    """

    def __init__(self, whose: Literal["teacher", "critic"], spec: ModelSpec, clean: bool = False) -> None:
        self.name: Literal["teacher", "critic"] = whose
        self.num_blocks = spec.num_blocks
        self._patch, self._clean, self._hidden_size = spec.compression.patch, clean, spec.hidden_size

    def grid(self, latents: LatentSize, block: int) -> TokenGrid:
        """Tokens of the transformer."""
        return token_grid(latents.as_tuple(), self._patch)

    def channels(self, block: int) -> int:
        """Of the transformer's tokens."""
        return self._hidden_size

    def see(
        self, comparison: Comparison, clips: Whose, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> Tokens:
        """Tokens of some clips, noised as the others are."""
        noisy, sigma = comparison.noised(clips, *((0.0, 0.0) if self._clean else sigmas))
        networks, prompt_embeds = comparison.networks, comparison.clips.prompt_embeds
        tokens = networks.features(self.name, noisy, sigma, prompt_embeds, blocks)
        grid = token_grid(noisy.shape[2:], self._patch)
        return {block: flat.unflatten(1, grid) for block, flat in tokens.items()}


class PixelFeatures(Encoder):
    """Blocks of a network that sees pixels."""

    def __init__(self, network: PixelEncoder, spec: ModelSpec, window: WindowConfig) -> None:
        self.name, self.num_blocks = network.name, network.num_blocks
        self._network, self._compression, self._window = network, spec.compression, window

    def grid(self, latents: LatentSize, block: int) -> TokenGrid:
        """Tokens of a window."""
        shown = self._compression.pixel_size(self._window.size(latents))
        frames, height, width = self._network.grid(shown, block)
        return min(frames, shown.frames), height, width

    def channels(self, block: int) -> int:
        """Of its tokens, found out by showing it a black clip."""
        return self._network.channels(block)

    def see(
        self, comparison: Comparison, clips: Whose, sigmas: tuple[float, float], blocks: Sequence[int]
    ) -> Tokens:
        """Tokens of some clips, in the same window as the others'."""
        return dict(zip(blocks, self._network.features(comparison.pixels(clips), blocks), strict=True))


def token_grid(latent_size: Sequence[int], patch: tuple[int, int, int]) -> TokenGrid:
    """Tokens of a transformer for a clip, along frames, height and width."""
    frames, height, width = (size // step for size, step in zip(latent_size, patch, strict=True))
    return frames, height, width


def check_noise(encoder: EncoderConfig, levels: NoiseLevels) -> None:
    """Refuse noise levels for an encoder that is shown none.

    Raises:
        ValueError: naming the keys.
    """
    if not encoder.sees_noise and levels.model_dump(include={"sigma_min", "sigma_max"}) != _LEVELS:
        raise ValueError("sigma_min and sigma_max: this encoder is shown clean clips; leave them out")


def depth_of(encoder: EncoderConfig, blocks: Blocks | None, spec: ModelSpec) -> int | None:
    """How many of its blocks run to give the tokens of some; None: those of one of pixels up to its middle one."""
    unnamed = None if encoder.sees_pixels else spec.num_blocks // 2 + 1
    return max(blocks) + 1 if blocks else unnamed


def encoder_passes(
    encoders: Sequence[tuple[EncoderConfig, int | None]],
    window: WindowConfig,
    grid: LatentSize,
    num_others: int,
) -> list[Pass]:
    """What encoders of some depths run for each clip that leads back to the student, and for others that do not."""
    runs: list[tuple[str | Section, int | None, bool]] = [
        (encoder if encoder.sees_pixels else str(getattr(encoder, "kind", "")), depth, encoder.sees_pixels)
        for encoder, depth in encoders
    ]
    if any(sees_pixels for *_, sees_pixels in runs):
        runs.insert(0, ("vae_decoder" if window.through == "vae" else "decoder", None, True))
    passes: list[Pass] = []
    for network, depth, sees_pixels in runs:
        shown = window.size(grid) if sees_pixels else grid
        # What sees pixels runs a prediction once more on the way back, clip by clip.
        passes.append(Pass(network, shown, num_others + sees_pixels, depth=depth))
        passes.append(Pass(network, shown, gradient="input", depth=depth))
    return passes
