"""Tokens, and the MMD by its definition: every pair, one after the other."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture
def randn() -> Callable[..., torch.Tensor]:
    """Standard normal float64 numbers: `randn(seed, *shape)`."""

    def draw(seed: int, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


@pytest.fixture
def mmd_by_definition() -> Callable[..., float]:
    """Mean over sets of the squared MMD, its pairs chosen one by one."""

    def one_set(pred: torch.Tensor, target: torch.Tensor, kernel: Kernel, estimator: str, unit: int) -> float:
        def mean(a: torch.Tensor, b: torch.Tensor, leave_out: bool) -> float:
            pairs = product(range(len(a)), range(len(b)))
            kept = [(i, j) for i, j in pairs if not (leave_out and i // unit == j // unit)]
            return sum(float(kernel(a[i], b[j])) for i, j in kept) / len(kept)

        inside, across = estimator != "biased", estimator == "paired"
        return mean(pred, pred, inside) + mean(target, target, inside) - 2 * mean(pred, target, across)

    def mmd(
        pred: torch.Tensor,
        target: torch.Tensor,
        kernel: Kernel,
        estimator: str = "biased",
        unit: int = 1,
    ) -> float:
        sets = [one_set(x, y, kernel, estimator, unit) for x, y in zip(pred, target, strict=True)]
        return sum(sets) / len(sets)

    return mmd
