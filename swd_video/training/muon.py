"""Muon for matrices and convolution kernels, in the precision of its surroundings.

`torch.optim.Muon` takes matrices alone and orthogonalises in bfloat16, which processors without bfloat16 arithmetic do
more than a hundred times slower than float32. This one multiplies in bfloat16 under autocast, else in float32.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every matrix moves alike in all its directions.

    Source: Muon is Scalable for LLM Training (arXiv 2502.16982), Algorithm 1, with the learning-rate rule of the
    original: x sqrt(max(1, rows / columns)).

    Convolution kernels count as matrices with a row for each output channel. Weight decay is decoupled, times the
    learning rate.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # there is no loss to ask for again
        """Move every matrix once; those of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                average = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                by_shape[matrix.shape].append((matrix, matrix.grad.lerp(average, group["momentum"])))
            for shape, pairs in by_shape.items():
                moves = orthogonalised(torch.stack([direction.flatten(1) for _, direction in pairs]))
                rate = group["lr"] * max(1.0, moves.shape[1] / moves.shape[2]) ** 0.5
                for (matrix, _), move in zip(pairs, moves, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(move.view(shape), alpha=-rate)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by Newton-Schulz iteration.

    Five iterations bring singular values to about 0.7 to 1.2.
    """
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if matrices.shape[1] > matrices.shape[2] else wide
