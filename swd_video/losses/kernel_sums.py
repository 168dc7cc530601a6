"""Sums of a kernel over all pairs of tokens, with their gradient, tile by tile."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.losses.kernels import RadialKernel, squared_distances

TILE = 1024
"""Rows and columns of the pairs at hand at once. Their matrix stays in a CPU's cache, and products stay large."""


@dataclass(frozen=True)
class PairWeights:
    """How the sums over pairs make up a squared MMD: `pred_pred a + target_target b - pred_target c`.

    Attributes:
        pred_pred: weight of every ordered pair of predicted tokens.
        target_target: likewise of target tokens.
        pred_target: weight of every pair across.
        skip: inside both sets, pairs in the same run of this many tokens are left out; 0 leaves out none.
        skip_across: likewise across the sets.
    """

    pred_pred: float
    target_target: float
    pred_target: float
    skip: int
    skip_across: int


class KernelSums(torch.autograd.Function):
    """Weighted sum of a kernel over all pairs, for every pair of sets.

    The gradient is made in the forward pass, tile by tile beside the sum, and only it is kept: a tile is computed
    once, and at no time is there a matrix of tokens by tokens. Second derivatives do not exist.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pred: Float[Tensor, "sets pred_tokens channels"],
        target: Float[Tensor, "sets target_tokens channels"],
        precisions: Float[Tensor, "sets bandwidths"],
        kernel: RadialKernel,
        weights: PairWeights,
        tile: int,
    ) -> Float[Tensor, " sets"]:
        """The sums; tokens should lie around the origin, where float32 distances are good."""
        wanted = ctx.needs_input_grad
        gradients = [
            torch.zeros_like(x) if want else None for x, want in zip((pred, target), wanted, strict=False)
        ]
        sums = []
        # Many small sets go together, large ones one by one.
        longest = min(tile, max(pred.shape[1], target.shape[1]))
        sets_at_once = (tile // longest) ** 2
        for start in range(0, len(pred), sets_at_once):
            sets = slice(start, start + sets_at_once)
            grad_pred, grad_target = (None if grad is None else grad[sets] for grad in gradients)
            walk = _Walk(kernel, precisions[sets], tile)
            sums.append(
                walk.inside(pred[sets], grad_pred, weights.pred_pred, weights.skip)
                + walk.inside(target[sets], grad_target, weights.target_target, weights.skip)
                + walk.across(
                    pred[sets],
                    target[sets],
                    grad_pred,
                    grad_target,
                    -weights.pred_target,
                    weights.skip_across,
                )
            )
        ctx.gradients = gradients
        return torch.cat(sums).to(pred.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, scaled."""
        scaled = (None if grad is None else grad * grad_output[:, None, None] for grad in ctx.gradients)
        return (*scaled, None, None, None, None)


@dataclass(frozen=True)
class _Walk:
    kernel: RadialKernel
    precisions: Tensor
    tile: int

    def inside(self, x: Tensor, grad: Tensor | None, weight: float, skip: int) -> Tensor:
        total = _no_sums(x)
        for rows in self._tiles(x):
            for columns in self._tiles(x, rows.start):
                # A tile below the diagonal is the mirror of one above, which therefore counts twice.
                mirrored = weight if rows == columns else 2 * weight
                total += self._tile(x, x, rows, columns, grad, grad, mirrored, skip)
        return total

    def across(
        self, x: Tensor, y: Tensor, grad_x: Tensor | None, grad_y: Tensor | None, weight: float, skip: int
    ) -> Tensor:
        total = _no_sums(x)
        for rows in self._tiles(x):
            for columns in self._tiles(y):
                total += self._tile(x, y, rows, columns, grad_x, grad_y, weight, skip)
        return total

    def _tiles(self, x: Tensor, start: int = 0) -> list[slice]:
        count = x.shape[1]
        return [slice(at, min(at + self.tile, count)) for at in range(start, count, self.tile)]

    def _tile(
        self,
        x: Tensor,
        y: Tensor,
        rows: slice,
        columns: slice,
        grad_x: Tensor | None,
        grad_y: Tensor | None,
        weight: float,
        skip: int,
    ) -> Tensor:
        """Weighted sum over one tile; adds the tile's part to the gradients.

        With slope `w = f'(d^2)`, the gradient of `f(|x - y|^2)` is `2 w (x - y)` for x and its negative for y.
        """
        a, b = x[:, rows], y[:, columns]
        values, slopes = self.kernel.values_and_slopes(squared_distances(a, b), self.precisions)
        if skip:
            _skip_same_run(values, slopes, rows, columns, skip)
        if grad_x is grad_y and rows == columns:
            # A tile that is its own mirror: what columns get is what rows get.
            slopes, grad_y = slopes.mul_(2), None
        if grad_x is not None:
            grad = grad_x[:, rows]
            grad.baddbmm_(slopes, b, alpha=-2 * weight)
            grad.addcmul_(slopes.sum(2, keepdim=True), a, value=2 * weight)
        if grad_y is not None:
            grad = grad_y[:, columns]
            grad.baddbmm_(slopes.mT, a, alpha=-2 * weight)
            grad.addcmul_(slopes.sum(1)[:, :, None], b, value=2 * weight)
        return values.sum(2).to(_sum_dtype(x)).sum(1) * weight


def _sum_dtype(x: Tensor) -> torch.dtype:
    # The three sums nearly cancel. Rows are short, their sums are many: float64 costs nothing, where there is one.
    return x.dtype if x.device.type == "mps" else torch.float64


def _no_sums(x: Tensor) -> Tensor:
    return x.new_zeros(len(x), dtype=_sum_dtype(x))


def _skip_same_run(values: Tensor, slopes: Tensor, rows: slice, columns: slice, length: int) -> None:
    row_runs, column_runs = (torch.arange(part.start, part.stop) // length for part in (rows, columns))
    if row_runs[0] > column_runs[-1] or column_runs[0] > row_runs[-1]:
        return
    same = (row_runs[:, None] == column_runs[None, :]).to(values.device)
    values.masked_fill_(same, 0)
    slopes.masked_fill_(same, 0)
