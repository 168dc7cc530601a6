"""Fixed networks that describe clips to the metrics. None of them may be one that a training loss used.

`efficientnet` is packaged with the `evaluation` extra. Every other name is a folder, or a hub name, of a video or image
encoder of transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from swd_video.core.pixels import pixels_from_frames
from swd_video.evaluation.clip_store import check_clips
from swd_video.evaluation.efficientnet import load_efficientnet
from swd_video.models.fingerprint import weights_digest
from swd_video.models.pixel_encoders import load_encoder_network, pixels_to, read_pixel_form
from swd_video.models.pixel_form import resize_pictures

PACKAGED = "efficientnet"

# On pocket clips (64 against 64) real clips lie 140 apart in the means and 4 in the changes, clips at half speed 157
# and 9: unweighted, slow motion would drown. Distances grow with the square of the weight, so 4 makes that 140 + 60
# against 157 + 138.
CHANGE_WEIGHT = 4.0


@dataclass(frozen=True)
class FrameFeatures:
    """An image network: describes frames one by one, and clips by their mean and their change.

    Distances over these features are *not* FVD, and mean something only beside the distance between two sets of real
    clips (the floor).

    Attributes:
        name: what reports call the features of clips.
        describe: uint8 frames (frames, height, width, 3) on the device to features (frames, features).
        device: where it runs.
        frames_per_forward: frames in one forward pass, which bounds memory.
        digest: of its weights, where another network may come to have its name.
    """

    name: str
    describe: Callable[[Tensor], Tensor]
    device: torch.device
    frames_per_forward: int
    digest: str = ""

    @torch.inference_mode()
    def frame_features(
        self, frames: UInt8[np.ndarray, "clips frames height width 3"]
    ) -> Float[np.ndarray, "clips frames features"]:
        """Describe every frame of some clips, float64.

        Raises:
            ValueError: If the clips are not uint8 RGB, or have a single frame.
        """
        check_clips(frames)
        flat = torch.from_numpy(np.ascontiguousarray(frames)).flatten(0, 1)
        parts = [self.describe(part.to(self.device)).double() for part in flat.split(self.frames_per_forward)]
        return torch.cat(parts).unflatten(0, frames.shape[:2]).cpu().numpy()

    def __call__(
        self, frames: UInt8[np.ndarray, "clips frames height width 3"]
    ) -> Float[np.ndarray, "clips features"]:
        """Describe clips of at least two frames; see `pool_frames`.

        Raises:
            ValueError: If the clips are not uint8 RGB, or have a single frame.
        """
        return pool_frames(self.frame_features(frames))


def pool_frames(
    per_frame: Float[np.ndarray, "clips frames features"],
) -> Float[np.ndarray, "clips both_features"]:
    """Mean over frames, then `CHANGE_WEIGHT` times the root mean square of the change from frame to frame."""
    change = CHANGE_WEIGHT * np.sqrt(np.square(np.diff(per_frame, axis=1)).mean(axis=1))
    return np.concatenate([per_frame.mean(axis=1), change], axis=1)


def imagenet_features(
    *, size_px: int = 160, frames_per_forward: int = 64, device: str | torch.device = "cpu"
) -> FrameFeatures:
    """EfficientNet-Lite0: 320 features of a frame, the spatial means of its last block, and 640 of a clip.

    The short side of frames is resized to `size_px`; the network was trained at 224.
    """
    network = load_efficientnet(device=device)

    def describe(frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames features"]:
        pixels = pixels_from_frames(frames.permute(0, 3, 1, 2))
        scale = size_px / min(pixels.shape[-2:])
        height, width = (max(round(n * scale), 1) for n in pixels.shape[-2:])
        return network.features(resize_pictures(pixels, (height, width)))

    name = f"EfficientNet-Lite0 at {size_px} px, mean and {CHANGE_WEIGHT:g} x change"
    return FrameFeatures(name, describe, torch.device(device), frames_per_forward)


class TransformersFeatures:
    """A video encoder of transformers, such as VideoMAE or V-JEPA 2, frozen: mean of the last layer's tokens.

    A clip is read as the network was trained: so many frames, spread evenly over it from the first to the last. Frames
    repeat where it has fewer. Of an image encoder, `pixels` and `mean_token` describe frames.
    """

    def __init__(self, name: str, device: str | torch.device) -> None:
        """Load it; see `load_features`."""
        config, model = load_encoder_network(name)
        self._run = pixels_to(name, model.to(device))
        form = read_pixel_form(name, config)
        self.num_frames = form.frames or 1
        self.name = f"{name}, mean token of {self.num_frames} frames"
        self.size_px = (form.height_px, form.width_px)
        self.device = torch.device(device)
        self.digest = f"{weights_digest(model)} {form}"
        self._statistics = [
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (form.mean, form.std)
        ]

    @torch.inference_mode()
    def __call__(
        self, frames: UInt8[np.ndarray, "clips frames height width 3"]
    ) -> Float[np.ndarray, "clips features"]:
        """Describe clips, one at a time.

        Raises:
            ValueError: If the clips are not uint8 RGB, or have a single frame.
        """
        check_clips(frames)
        picked = np.linspace(0, frames.shape[1] - 1, self.num_frames).round().astype(int)
        described = []
        for clip in frames:
            shown = torch.from_numpy(np.ascontiguousarray(clip[picked])).to(self.device)
            described.append(self.mean_token(self.pixels(shown)[None]).double())
        return torch.cat(described).cpu().numpy()

    def pixels(
        self, frames: UInt8[Tensor, "frames height width 3"]
    ) -> Float[Tensor, "frames 3 size_h size_w"]:
        """Resize to the network's size, whatever the shape, and normalise."""
        mean, std = self._statistics
        unit = frames.permute(0, 3, 1, 2).float() / 255.0
        return (resize_pictures(unit, self.size_px).clamp(0, 1) - mean) / std

    def mean_token(self, pixels: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Mean of the tokens, or of the places of a convolution, of the last layer."""
        output = self._run(pixels).last_hidden_state
        return (output.flatten(2).transpose(1, 2) if output.ndim > 3 else output).mean(dim=1)


VideoFeatures: TypeAlias = FrameFeatures | TransformersFeatures
"""A fixed network that describes batches of clips in float64; it must not be one that any training loss used."""


def load_features(name: str, *, device: str | torch.device = "cpu") -> VideoFeatures:
    """Load an encoder of clips.

    It is "efficientnet", or a video or image encoder of transformers, by folder or hub name.

    Raises:
        ValueError: If there is no such encoder, or it cannot be loaded.
    """
    if name == PACKAGED:
        return imagenet_features(device=device)
    network = TransformersFeatures(name, device)
    if network.num_frames > 1:
        return network
    return FrameFeatures(
        f"{name}, mean and {CHANGE_WEIGHT:g} x change",
        lambda frames: network.mean_token(network.pixels(frames)),
        network.device,
        frames_per_forward=32,
        digest=network.digest,
    )


def load_frame_features(name: str, *, device: str | torch.device = "cpu") -> FrameFeatures:
    """Load an encoder of frames; see `load_features`.

    Raises:
        ValueError: If there is no such encoder, or it is one of videos.
    """
    encoder = load_features(name, device=device)
    if not isinstance(encoder, FrameFeatures):
        raise ValueError(
            f"frame_encoder {name!r}: is a video encoder, expected one of images, such as {PACKAGED!r} or DINOv2."
        )
    return encoder
