"""Frozen networks that see clips as pixels, behind one interface: tokens of any block, where they lie in the clip."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, cached_file

from swd_video.core.grid import PixelSize
from swd_video.models.capture import capture_blocks
from swd_video.models.checkpoints import errors_in_one_line, load_network
from swd_video.models.loading import HUB_NAME
from swd_video.models.pixel_form import PixelForm
from swd_video.models.recomputation import recomputed_by_clip
from swd_video.models.transnetv2 import TRUNK_CHANNELS, empty_trunk, load_trunk
from swd_video.plain_text import sentence

# What ImageNet's training set has; encoders that say nothing else were trained with these.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FRAMES_KEYS = ("num_frames", "frames_per_clip")
_SIZE_KEYS = ("image_size", "crop_size")
_DEFAULT_SIZE_PX = 224


class PixelEncoder(ABC):
    """A frozen network of pixels.

    Attributes:
        name: for messages.
        num_blocks: that `features` counts.
        network: holds its weights; on the device "meta" it is made without any, to be counted.
    """

    name: str
    num_blocks: int
    network: nn.Module

    @abstractmethod
    def grid(self, size: PixelSize, block: int) -> tuple[int, int, int]:
        """Tokens along frames, height and width after a block, for clips of a size."""

    def features(
        self, pixels: Float[Tensor, "batch 3 frames height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch token_frames token_height token_width channels"]]:
        """Tokens after blocks, in the order asked; each clip is computed again in the backward pass.

        Args:
            pixels: in [-1, 1]; gradients reach them.
            blocks: indices, from 0.
        """
        return recomputed_by_clip(lambda clip: self.tokens(clip, blocks), pixels)

    @torch.no_grad()
    def channels(self, block: int) -> int:
        """Of a token after a block, as a black clip shows."""
        device = next((weight.device for weight in self.network.parameters()), None)
        return self.tokens(torch.zeros(1, 3, 3, 32, 32, device=device), [block])[0].shape[-1]

    @abstractmethod
    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """What `features` gives, without recomputation."""


@dataclass(frozen=True)
class _Anatomy:
    """Where an encoder of transformers keeps its blocks and what runs after them, and how its tokens lie.

    Of encoders that see `pictures` one by one, blocks put out tokens, or maps of channels, rows and columns.
    """

    blocks: Callable[[Any], nn.ModuleList]
    after: Callable[[Any], nn.Module | None]
    has_class_token: bool
    order: str = "f h w"
    any_length: bool = False  # takes other numbers of frames than it was trained with
    pictures: bool = False


_ANATOMIES = {
    "videomae": _Anatomy(lambda model: model.encoder.layer, lambda model: model.layernorm, False),
    "vjepa2": _Anatomy(
        lambda model: model.encoder.layer, lambda model: model.encoder.layernorm, False, any_length=True
    ),
    # Place by place, and each place's frames one after the other.
    "timesformer": _Anatomy(
        lambda model: model.encoder.layer, lambda model: model.layernorm, True, "h w f", any_length=True
    ),
    "vivit": _Anatomy(lambda model: model.layers, lambda model: model.layernorm, True),
    "dinov2": _Anatomy(
        lambda model: model.encoder.layer, lambda model: model.layernorm, True, any_length=True, pictures=True
    ),
    "vit": _Anatomy(
        lambda model: model.layers, lambda model: model.layernorm, True, any_length=True, pictures=True
    ),
    "mobilenet_v2": _Anatomy(
        lambda model: model.layer, lambda model: model.conv_1x1, False, any_length=True, pictures=True
    ),
}


class TransformersEncoder(PixelEncoder):
    """An encoder of transformers, of videos: VideoMAE, V-JEPA 2, TimeSformer or ViViT.

    Or one of pictures, which sees frames one by one: DINOv2, ViT or MobileNetV2.

    Without `frames` it is shown as many pictures as it was trained with; one of pictures all.

    Raises:
        ValueError: if there is no such encoder, the order of its tokens is not known, or it takes no such number of
            frames.
    """

    def __init__(
        self, name: str, frames: int | None = None, device: torch.device | str | None = None
    ) -> None:
        self.name = name
        device = torch.device(device or "cpu")
        config, model = load_encoder_network(name, with_weights=device.type != "meta")
        kind = str(config.model_type)
        if kind not in _ANATOMIES or getattr(config, "attention_type", "") == "space_only":
            raise ValueError(
                f"encoder {name!r}: is a {kind}, of which it is not known where in a clip its tokens lie; "
                f"expected one of {', '.join(_ANATOMIES)}"
            )
        self._anatomy = _ANATOMIES[kind]
        self.network = model.to(device)
        self._blocks = list(self._anatomy.blocks(model))
        self.num_blocks = len(self._blocks)
        form = read_pixel_form(name, config)
        tubelet: Any = getattr(config, "tubelet_size", 1)
        self._tubelet = tubelet if isinstance(tubelet, int) else int(tubelet[0])
        if frames is not None and frames != form.frames:
            if not self._anatomy.any_length or frames % self._tubelet:
                expected = f"a multiple of {self._tubelet}" if self._anatomy.any_length else str(form.frames)
                raise ValueError(f"frames: got {frames} for {name!r}, a {kind}, expected {expected}")
            form = replace(form, frames=frames)
        self._form = form
        patch: Any = getattr(config, "patch_size", None) if isinstance(tubelet, int) else tuple(tubelet[1:])
        self._patch = (patch, patch) if isinstance(patch, int) else patch
        self._run = pixels_to(name, model)

    def grid(self, size: PixelSize, block: int) -> tuple[int, int, int]:
        """Tokens along frames, height and width; the last two are alike for all clips, brought into one form."""
        frames = (self._form.frames or size.frames) // self._tubelet
        if self._patch is not None:
            height, width = self._form.height_px // self._patch[0], self._form.width_px // self._patch[1]
        else:  # of maps, which become smaller from block to block
            device = next(self.network.parameters()).device
            picture = torch.zeros(1, 3, 1, self._form.height_px, self._form.width_px, device=device)
            with torch.no_grad():
                height, width = self._captured(picture, [block])[0].shape[2:]
        return frames, height, width

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """See `PixelEncoder`."""
        captured = self._captured(self._form.shape(pixels), blocks)
        if self._patch is None:
            return [rearrange(maps, "(b f) c h w -> b f h w c", b=len(pixels)) for maps in captured]
        frames, height, width = self.grid(PixelSize(*pixels.shape[2:]), blocks[0])
        first = 1 if self._anatomy.has_class_token else 0
        order = "(b f) (h w) c" if self._anatomy.pictures else f"b ({self._anatomy.order}) c"
        return [
            rearrange(tokens[:, first:], f"{order} -> b f h w c", f=frames, h=height, w=width)
            for tokens in captured
        ]

    def _captured(self, shown: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """What blocks put out for clips in the network's form: of one of pictures, for each frame."""
        shown = shown.transpose(1, 2)
        shown = shown.flatten(0, 1) if self._anatomy.pictures else shown
        return capture_blocks(
            self._blocks, self._anatomy.after(self.network), blocks, lambda: self._run(shown)
        )


class TransNetEncoder(PixelEncoder):
    """TransNetV2's trunk: its blocks are the three stacks of convolutions, and every frame has tokens of its own.

    The short side of pictures is resized to `short_side_px`; their shape is kept.

    Raises:
        ValueError: if there are no such weights.
    """

    name = "transnetv2"
    num_blocks = len(TRUNK_CHANNELS)

    def __init__(
        self, weights: str | Path, short_side_px: int = 27, device: torch.device | str | None = None
    ) -> None:
        device = torch.device(device or "cpu")
        self.network = empty_trunk() if device.type == "meta" else load_trunk(weights).to(device)
        self._short_side_px = short_side_px

    def grid(self, size: PixelSize, block: int) -> tuple[int, int, int]:
        """All frames; height and width shrink with every stack."""
        form = self._form(size)
        return size.frames, form.height_px // 2 ** (block + 1), form.width_px // 2 ** (block + 1)

    def _form(self, size: PixelSize) -> PixelForm:
        scale = self._short_side_px / min(size.height, size.width)
        return PixelForm(None, round(size.height * scale), round(size.width * scale))

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """See `PixelEncoder`."""
        shown = self._form(PixelSize(*pixels.shape[2:])).shape(pixels)
        outputs = self.network(shown, max(blocks) + 1)
        return [rearrange(outputs[block], "b c f h w -> b f h w c") for block in blocks]


def load_encoder_network(name: str, *, with_weights: bool = True) -> tuple[Any, Any]:
    """The config and the network of a video or image encoder of transformers, frozen, in float32, on the CPU.

    Args:
        name: its folder or hub name.
        with_weights: else the network is made on the meta device from its config, which must be on this machine.

    Raises:
        ValueError: if there is none, or it cannot be loaded.
    """
    if not Path(name).is_dir() and not HUB_NAME.fullmatch(name):
        raise ValueError(
            f"encoder {name!r}: no such folder; give a packaged name, or the folder or hub name of a video or image "
            "encoder of transformers."
        )
    try:
        with errors_in_one_line(f"encoder {name!r}"):
            config: Any = AutoConfig.from_pretrained(name, local_files_only=not with_weights)
        if with_weights:
            model: Any = load_network(AutoModel, name, torch.float32, trunk=True, config=config)
        else:
            with torch.device("meta"):
                model = AutoModel.from_config(config)
    except ValueError as error:
        raise ValueError(
            f"{sentence(str(error))} Any video or image encoder of transformers can be named."
        ) from error
    # Of networks that see and read, the half that sees.
    model = getattr(model, "vision_model", model).requires_grad_(False).eval()
    return getattr(config, "vision_config", config), model


def pixels_to(name: str, model: nn.Module) -> Callable[[Tensor], Any]:
    """Calls an encoder of transformers with pixels, by the name that it has for them.

    Raises:
        ValueError: if it takes none.
    """
    arguments = inspect.signature(model.forward).parameters
    inputs = [key for key in ("pixel_values_videos", "pixel_values") if key in arguments]
    if not inputs:
        raise ValueError(f"encoder {name!r}: takes no pixels; give a video or image encoder.")
    # V-JEPA 2 would also predict what it has not been shown.
    options = {"skip_predictor": True} if "skip_predictor" in arguments else {}
    return lambda pixels: model(**{inputs[0]: pixels}, **options)


def read_pixel_form(name: str, config: Any) -> PixelForm:
    """The form of pictures that an encoder of transformers was trained on.

    Args:
        name: its folder or hub name, whose processor says mean and deviation; ImageNet's where it says nothing.
        config: of the encoder.
    """
    frames = next((int(n) for key in _FRAMES_KEYS if (n := getattr(config, key, None))), None)
    size: Any = next((n for key in _SIZE_KEYS if (n := getattr(config, key, None))), _DEFAULT_SIZE_PX)
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = _statistics(name)
    return PixelForm(frames, int(height), int(width), mean, std)


def _statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    for file in (VIDEO_PROCESSOR_NAME, IMAGE_PROCESSOR_NAME):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            return _read_statistics(json.loads(Path(path).read_text(encoding="utf-8")))
    return _MEAN, _STD


def _read_statistics(
    said: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation in pixels from 0 to 1; a processor may say them of pixels in another range."""
    factor = (said.get("rescale_factor") or 1 / 255) if said.get("do_rescale", True) else 1.0
    largest, less = 255 * factor, 1.0 if said.get("offset") else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if said.get("do_normalize", True):
        mean, std = _triple(said.get("image_mean") or _MEAN), _triple(said.get("image_std") or _STD)
    return _triple([(value + less) / largest for value in mean]), _triple([value / largest for value in std])


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
