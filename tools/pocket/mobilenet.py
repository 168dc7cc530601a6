"""Make a folder of transformers with a MobileNetV2, through which discriminators look.

    python -m tools.pocket.mobilenet --out out/pocket/mobilenet

Its weights are those of the npm package nsfwjs 4.3.0 (MIT), which was trained on photographs and drawings and sees
colours from 0 to 1; nothing that judges clips here uses them. They lie there as bytes with a scale and an offset for
each tensor, in scripts that are read as text, and not run.
"""

import argparse
import base64
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import MobileNetV2Config, MobileNetV2Model

from swd_video.files import whole_folder
from tools.pocket.npm import npm_package

PACKAGE = "nsfwjs@4.3.0"
INTEGRITY = "WTKDte0vp1X97N1h34P79G/hG+sVT3+TnDz9di1WseIJR93v11E4viNX7Vg9WsO6HYoR772Nzq2iM8jo3XBZ+g=="
_FOLDER = "package/dist/models/mobilenet_v2"
_IMAGE_PX = 192
_BLOCKS = 16
_TENSOR = re.compile(
    r'name:"(?P<name>[^"]+)",shape:\[(?P<shape>[\d,]+)\],dtype:"float32",'
    r'quantization:\{min:(?P<min>[-.\de]+),scale:(?P<scale>[-.\de]+),dtype:"uint8"\}'
)


def read_weights(model: str, shard: str) -> dict[str, Tensor]:
    """The tensors of a model of TensorFlow.js that is packed as scripts.

    Args:
        model: the script that lists the tensors, one after the other.
        shard: the script with their bytes, in base 64.

    Raises:
        ValueError: if the bytes are not those of the tensors.
    """
    content = np.frombuffer(base64.b64decode(max(re.findall(r'"([^"]*)"', shard), key=len)), np.uint8)
    tensors, start = {}, 0
    for found in _TENSOR.finditer(model):
        shape = [int(length) for length in found["shape"].split(",")]
        size = int(np.prod(shape))
        values = content[start : start + size].astype(np.float32) * float(found["scale"]) + float(
            found["min"]
        )
        tensors[found["name"]] = torch.from_numpy(values.reshape(shape))
        start += size
    if not tensors or start != len(content):
        raise ValueError(
            f"{PACKAGE}: its list has {start} bytes of weights, expected the {len(content)} that it holds."
        )
    return tensors


def state_dict(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of transformers' `MobileNetV2Model`."""
    state: dict[str, Tensor] = {}

    def layer(ours: str, convolution: str, norm: str) -> None:
        kernel = published.get(f"{convolution}/kernel")
        if kernel is None:  # one kernel for each channel
            kernel = published[f"{convolution}/depthwise_kernel"].transpose(2, 3)
        state[f"{ours}.convolution.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        names = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
        for name, theirs in names.items():
            state[f"{ours}.normalization.{name}"] = published[f"{norm}/{theirs}"]

    layer("conv_stem.first_conv", "Conv1", "bn_Conv1")
    blocks = {"conv_stem": "expanded_conv"} | {
        f"layer.{index}": f"block_{index + 1}" for index in range(_BLOCKS)
    }
    parts = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
    for ours, theirs in blocks.items():
        for name, part in parts.items():
            if ours != "conv_stem" or part != "expand":
                layer(f"{ours}.{name}", f"{theirs}_{part}", f"{theirs}_{part}_BN")
    layer("conv_1x1", "Conv_1", "Conv_1_bn")
    return state


def make_folder(out: Path, image_px: int = _IMAGE_PX) -> None:
    """Download the package and write the network's folder; it sees pictures at that size."""
    with npm_package(PACKAGE, INTEGRITY) as archive:
        texts = [_read(archive, name) for name in ("model.min.js", "group1-shard1of1.min.js")]
    model = MobileNetV2Model(MobileNetV2Config(image_size=image_px, layer_norm_eps=1e-3))
    found = model.load_state_dict(state_dict(read_weights(*texts)), strict=False)
    lacking = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if lacking or found.unexpected_keys:
        raise ValueError(f"{PACKAGE}: lacks {lacking}, and has {found.unexpected_keys} besides.")
    said = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
    }
    with whole_folder(out) as draft:
        model.save_pretrained(draft)
        (draft / "preprocessor_config.json").write_text(json.dumps(said) + "\n", encoding="utf-8")


def _read(archive: tarfile.TarFile, name: str) -> str:
    content = archive.extractfile(f"{_FOLDER}/{name}")
    assert content is not None
    return content.read().decode()


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/pocket/mobilenet"))
    parser.add_argument(
        "--image-px", type=int, default=_IMAGE_PX, help="what pictures are resized to (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    out = arguments.out
    try:
        make_folder(out, arguments.image_px)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
