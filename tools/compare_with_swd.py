"""Our MMD losses beside those of the public SwD code, run from a copy of it.

    git clone https://github.com/yandex-research/swd ../swd
    python -m tools.compare_with_swd ../swd

Runs its function `mmd_loss_` (in `src/losses.py`) and ours on the tokens of one frame, with gradients, and prints how
far apart they are. Its "linear" is `pseudo_huber_mmd` here, its "rbf" takes the unbiased estimator with a bandwidth in
the features' unit, and its batch form joins the tokens of all clips. Nothing of the copy is part of this repository.
Exit code 0: they agree; 1: they do not; 2: there is no copy.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from torch import Tensor

from swd_video.losses.kernels import Rbf
from swd_video.losses.mmd import kernel_mmd, linear_mmd, pseudo_huber_mmd
from swd_video.losses.token_sets import joined_sets

LOSSES_FILE = Path("src", "losses.py")
_TOLERANCE = 1e-4

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """One loss, theirs and ours.

    Attributes:
        name: what is compared.
        theirs: value of the copy's function.
        ours: value of the package's function.
        value_gap: difference of the two, relative to theirs.
        gradient_gap: norm of the difference of the gradients for the prediction, relative to theirs.
    """

    name: str
    theirs: float
    ours: float
    value_gap: float
    gradient_gap: float

    @property
    def agrees(self) -> bool:
        """Whether both gaps are rounding."""
        return max(self.value_gap, self.gradient_gap) < _TOLERANCE


def load_their_loss(copy: Path) -> Callable[..., Tensor]:
    """The copy's MMD function.

    Raises:
        FileNotFoundError: if there is no copy.
    """
    path = copy / LOSSES_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{copy}: no copy of the public SwD code here (no {LOSSES_FILE}); "
            "clone https://github.com/yandex-research/swd there."
        )
    spec = spec_from_file_location("public_swd_losses", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mmd_loss_


def compare(their_loss: Callable[..., Tensor]) -> list[Comparison]:
    """Both sides' losses on the tokens of one frame of two clips, in float32."""
    generator = torch.Generator().manual_seed(0)
    # A frame of 240x416 pixels has 15x26 tokens in Wan 2.1.
    target = torch.randn(2, 390, 128, generator=generator)
    predicted = 1.1 * torch.randn(2, 390, 128, generator=generator) + 0.05

    def joined(loss: Loss) -> Loss:
        return lambda x, y: loss(joined_sets(x, len(x), 1), joined_sets(y, len(y), 1))

    def rbf(x: Tensor, y: Tensor) -> Tensor:
        return kernel_mmd(x, y, Rbf((16.0,), "absolute"), "unbiased")

    pairs: dict[str, tuple[Loss, Loss]] = {
        "linear kernel, c = 0.001 (our pseudo-Huber)": (lambda x, y: their_loss(y, x), pseudo_huber_mmd),
        "linear kernel, sum over channels at c = 0 and squared (our linear)": (
            lambda x, y: _squared(their_loss, x, y),
            linear_mmd,
        ),
        "rbf kernel": (lambda x, y: their_loss(y, x, kernel="rbf", sigma=16.0), rbf),
        "linear kernel over the batch": (
            lambda x, y: their_loss(y, x, do_batch_mmd=True),
            joined(pseudo_huber_mmd),
        ),
        "rbf kernel over the batch": (
            lambda x, y: their_loss(y, x, kernel="rbf", sigma=16.0, do_batch_mmd=True),
            joined(rbf),
        ),
    }
    return [_compare(name, *losses, predicted, target) for name, losses in pairs.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("copy", type=Path, help="folder with a copy of the public SwD code")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    arguments = parser.parse_args(argv)
    try:
        their_loss = load_their_loss(arguments.copy)
    except FileNotFoundError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 2
    comparisons = compare(their_loss)
    if arguments.json:
        print(json.dumps({"comparisons": [asdict(comparison) for comparison in comparisons]}))
    else:
        for one in comparisons:
            verdict = "agree" if one.agrees else "DIFFER"
            print(
                f"{verdict}: {one.name}: {one.theirs:.8g} theirs, {one.ours:.8g} ours, "
                f"value off by {one.value_gap:.1e}, gradient by {one.gradient_gap:.1e}"
            )
    return 0 if all(comparison.agrees for comparison in comparisons) else 1


def _compare(name: str, theirs: Loss, ours: Loss, predicted: Tensor, target: Tensor) -> Comparison:
    values, gradients = [], []
    for loss in (theirs, ours):
        leaf = predicted.clone().requires_grad_()
        value = loss(leaf, target)
        gradients.append(torch.autograd.grad(value, leaf)[0])
        values.append(value.item())
    gap = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    their_value, our_value = values
    return Comparison(
        name, their_value, our_value, abs(our_value - their_value) / abs(their_value), gap.item()
    )


def _squared(their_loss: Callable[..., Tensor], predicted: Tensor, target: Tensor) -> Tensor:
    # With c = 0 theirs is |d| of one channel's mean tokens; Eq. 2 of the paper sums its square over channels.
    channels = zip(predicted.split(1, dim=-1), target.split(1, dim=-1), strict=True)
    clips = [
        torch.stack([their_loss(y[i : i + 1], x[i : i + 1], c=0.0, eps=0.0) for i in range(len(x))])
        for x, y in channels
    ]
    return torch.stack(clips).square().sum(0).mean()


if __name__ == "__main__":
    sys.exit(main())
