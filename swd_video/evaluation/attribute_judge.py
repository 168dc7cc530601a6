"""A small video network, trained on real clips alone, that reads back what clips show: by the prompt, and beyond it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from swd_video.core.pixels import pixels_from_frames
from swd_video.evaluation.clip_store import check_clips
from swd_video.files import whole_file, write_json
from swd_video.models.checkpoints import check_fit, errors_in_one_line, read_json, read_weights
from swd_video.models.pixel_form import resize_pictures

WEIGHTS_NAME = "judge.safetensors"
CONFIG_NAME = "judge.json"


class _SpaceTimeBlock(nn.Module):
    """Residual block of two (2+1)-D convolutions, halving the frame at its start.

    Source: R(2+1)D, Tran et al. (arXiv 1711.11248).
    """

    def __init__(self, channels_in: int, channels_out: int, time_stride: int) -> None:
        super().__init__()
        stride = (time_stride, 2, 2)
        self.space1 = nn.Conv3d(channels_in, channels_out, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.time1 = nn.Conv3d(
            channels_out, channels_out, (3, 1, 1), (time_stride, 1, 1), (1, 0, 0), bias=False
        )
        self.norm1 = nn.BatchNorm3d(channels_out)
        self.space2 = nn.Conv3d(channels_out, channels_out, (1, 3, 3), 1, (0, 1, 1), bias=False)
        self.time2 = nn.Conv3d(channels_out, channels_out, (3, 1, 1), 1, (1, 0, 0), bias=False)
        self.norm2 = nn.BatchNorm3d(channels_out)
        self.shortcut = nn.Conv3d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.silu(self.norm1(self.time1(self.space1(x))))
        return functional.silu(self.norm2(self.time2(self.space2(hidden))) + self.shortcut(x))


class AttributeJudge(nn.Module):
    """A 3-D CNN with one classification head for each attribute of a prompt (subject, motion, background).

    What a prompt leaves open (size, place, tint) can be read as numbers. A name that ends in `_first` and the same with
    `_last` are where something begins and ends.

    Attributes:
        classes: For each attribute, the names of its classes in the order of the head's outputs.
        readings: By name, the numbers that it reads, each with its deviation among real clips of one prompt.
        input_frames: Frames the network reads, spread evenly over a clip from its first to its last.
        input_size_px: Height and width the network reads.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        *,
        readings: Mapping[str, float] = MappingProxyType({}),
        input_frames: int = 17,
        input_size_px: int = 64,
        width: int = 24,
    ) -> None:
        """Make an untrained judge.

        Raises:
            ValueError: If an attribute has fewer than two classes or names one twice.
        """
        super().__init__()
        for attribute, names in classes.items():
            if len(names) < 2 or len(set(names)) != len(names):
                raise ValueError(
                    f"classes[{attribute!r}]: got {list(names)}, expected two or more different names."
                )
        self.classes = {attribute: tuple(names) for attribute, names in classes.items()}
        self.readings = dict(readings)
        self.input_frames = input_frames
        self.input_size_px = input_size_px
        self.width = width
        self.stem = nn.Conv3d(3, width, (3, 5, 5), (2, 2, 2), (1, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(width)
        self.blocks = nn.Sequential(
            _SpaceTimeBlock(width, 2 * width, 1),
            _SpaceTimeBlock(2 * width, 4 * width, 2),
            _SpaceTimeBlock(4 * width, 6 * width, 2),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(12 * width, len(c)) for name, c in self.classes.items()})
        # Places are lost in a mean over space, so numbers are read off every cell that four and three halvings leave.
        cells = -(-input_frames // 8) * (-(-input_size_px // 16)) ** 2
        self.reader = (
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(6 * width * cells, 8 * width),
                nn.SiLU(),
                nn.Linear(8 * width, len(readings)),
            )
            if readings
            else None
        )

    def prepare(
        self, frames: UInt8[np.ndarray, "batch frames height width 3"]
    ) -> UInt8[Tensor, "batch 3 judged_frames judged_height judged_width"]:
        """Pick frames evenly and shrink them (antialiased) to the judge's input.

        Raises:
            ValueError: If the clips are not uint8 RGB or have fewer frames than two.
        """
        check_clips(frames)
        picked = np.linspace(0, frames.shape[1] - 1, self.input_frames).round().astype(int)
        flat = torch.from_numpy(np.ascontiguousarray(frames[:, picked])).flatten(0, 1).permute(0, 3, 1, 2)
        small = resize_pictures(flat.float(), (self.input_size_px, self.input_size_px))
        flat = small.round().clamp(0, 255).to(torch.uint8)
        return flat.unflatten(0, (len(frames), -1)).transpose(1, 2).contiguous()

    def forward(
        self, pixels: Float[Tensor, "batch 3 frames height width"]
    ) -> tuple[dict[str, Float[Tensor, "batch _"]], Float[Tensor, "batch readings"]]:
        """Logits for each attribute, and the readings in their deviations; `pixels` in [-1, 1], of the input's size."""
        hidden = self.blocks(functional.silu(self.norm(self.stem(pixels))))
        features = torch.cat([hidden.mean(dim=(2, 3, 4)), hidden.amax(dim=(2, 3, 4))], dim=1)
        readings = hidden.new_zeros(len(hidden), 0) if self.reader is None else self.reader(hidden)
        return {name: head(features) for name, head in self.heads.items()}, readings

    @torch.inference_mode()
    def predict(
        self, frames: UInt8[np.ndarray, "clips frames height width 3"], *, batch_size: int = 32
    ) -> tuple[dict[str, Int[np.ndarray, " clips"]], Float[np.ndarray, "clips readings"]]:
        """The most likely class of each clip, by attribute, and the readings; clips of any size and length."""
        was_training = self.training
        self.eval()
        device = self.stem.weight.device
        labels: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}
        numbers = []
        for start in range(0, len(frames), batch_size):
            pixels = pixels_from_frames(self.prepare(frames[start : start + batch_size]).to(device))
            logits, readings = self(pixels)
            for name, values in logits.items():
                labels[name].append(values.argmax(dim=1).cpu().numpy())
            numbers.append(readings.cpu().numpy())
        self.train(was_training)
        return {name: np.concatenate(parts) for name, parts in labels.items()}, np.concatenate(numbers)

    def save(self, folder: Path, **about: object) -> None:
        """Write weights and class names to a folder; `about` (recipe, accuracy) is kept in the JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format": 1,
            "classes": {name: list(names) for name, names in self.classes.items()},
            "readings": self.readings,
            "input_frames": self.input_frames,
            "input_size_px": self.input_size_px,
            "width": self.width,
            "about": about,
        }
        with whole_file(folder / WEIGHTS_NAME) as draft:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, draft)
        write_json(folder / CONFIG_NAME, config)

    @classmethod
    def load(cls, folder: Path, *, device: str | torch.device = "cpu") -> "AttributeJudge":
        """Read a judge back, frozen and in evaluation mode.

        Raises:
            ValueError: If the folder holds no judge, or a broken one.
        """
        if not (folder / CONFIG_NAME).is_file() or not (folder / WEIGHTS_NAME).is_file():
            raise ValueError(
                f"{folder}: no judge there, expected {CONFIG_NAME} and {WEIGHTS_NAME}. "
                "Train one first (tools/pocket/judge.py for the pocket world)."
            )
        path = folder / CONFIG_NAME
        config = read_json(path)
        with errors_in_one_line(path):
            judge = cls(
                config["classes"],
                readings=config.get("readings", {}),
                input_frames=config["input_frames"],
                input_size_px=config["input_size_px"],
                width=config["width"],
            )
        weights = read_weights(folder / WEIGHTS_NAME)
        check_fit(folder / WEIGHTS_NAME, weights, judge.state_dict(), "the judge")
        judge.load_state_dict(weights)
        return judge.requires_grad_(False).eval().to(device)
