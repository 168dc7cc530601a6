"""Kernels of a distance between tokens, and the distance at which they look."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

# Enough for a median, and the same tokens for the same clip every time.
_MEDIAN_TOKENS = 64


@dataclass(frozen=True)
class RadialKernel(ABC):
    """The mean over bandwidths `s` of a profile `f(d^2 / (2 s^2))`, where `d` is the distance of two tokens.

    Several bandwidths see several scales of difference: a narrow one tells near tokens apart and is flat for
    far ones, a wide one the other way round.

    Attributes:
        bandwidths: in `unit`, all above 0.
        unit: `median` counts in median distances between the tokens of a comparison, prediction and target joined
            (the median heuristic), and so fits any features; `absolute` in the features' own unit.

    Source: A Kernel Two-Sample Test (Gretton et al., JMLR 13, 2012), section 8 for the median heuristic.
    """

    bandwidths: tuple[float, ...] = (1.0,)
    unit: Literal["median", "absolute"] = "median"

    @abstractmethod
    def profile(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """`f` and its derivative at `d^2 / (2 s^2)`."""

    @torch.no_grad()
    def precisions(
        self,
        pred_tokens: Float[Tensor, "sets pred_tokens channels"],
        target_tokens: Float[Tensor, "sets target_tokens channels"],
    ) -> Float[Tensor, "sets bandwidths"]:
        """`1 / (2 s^2)` of every bandwidth for every pair of sets; a constant, no gradient passes."""
        bandwidths = pred_tokens.new_tensor(self.bandwidths).expand(len(pred_tokens), -1)
        if self.unit == "median":
            bandwidths = bandwidths * median_distance(pred_tokens, target_tokens)[:, None]
        return 1 / (2 * bandwidths.square())

    def values_and_slopes(
        self,
        squared_distances: Float[Tensor, "sets rows columns"],
        precisions: Float[Tensor, "sets bandwidths"],
    ) -> tuple[Float[Tensor, "sets rows columns"], Float[Tensor, "sets rows columns"]]:
        """The kernel of every pair of tokens, and its derivative by the squared distance."""
        parts = []
        for precision in precisions[:, :, None, None].unbind(1):
            value, derivative = self.profile(squared_distances * precision)
            parts.append((value, derivative.mul_(precision)))
        values, slopes = (
            torch.stack(part).mean(0) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)
        )
        return values, slopes


@dataclass(frozen=True)
class Rbf(RadialKernel):
    """Gaussian kernel: the mean of `exp(-d^2 / (2 s^2))`. Blind to differences far above its bandwidths."""

    def profile(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """`exp(-u)` and its derivative."""
        value = torch.exp(-scaled)
        return value, -value


@dataclass(frozen=True)
class RationalQuadratic(RadialKernel):
    """The mean of `(1 + d^2 / (2 alpha s^2))^-alpha`: Gaussian kernels of all bandwidths, mixed.

    Its tails fall off slowly, so that a prediction far from its target still gets a gradient.

    Attributes:
        alpha: above 0; the smaller, the heavier the tails. Towards infinity it becomes `Rbf`.

    Source: Demystifying MMD GANs (arXiv 1801.01401).
    """

    alpha: float = 1.0

    def profile(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """`(1 + u / alpha)^-alpha` and its derivative."""
        base = 1 + scaled / self.alpha
        value = base.pow(-self.alpha)
        return value, -value / base


def centered(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
) -> tuple[Float[Tensor, "sets pred_tokens channels"], Float[Tensor, "sets target_tokens channels"]]:
    """Both moved by the target's mean, in float32 or better.

    No MMD minds where the origin is, but float32 does: distances of tokens far from it lose their last digits.
    """
    dtype = torch.promote_types(pred_tokens.dtype, torch.float32)
    center = target_tokens.detach().to(dtype).mean(dim=1, keepdim=True)
    return pred_tokens.to(dtype) - center, target_tokens.to(dtype) - center


def squared_distances(
    a: Float[Tensor, "sets rows channels"], b: Float[Tensor, "sets columns channels"]
) -> Float[Tensor, "sets rows columns"]:
    """Squared distances of all pairs, by one matrix product; exact only where tokens lie around the origin."""
    norms = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :]
    return torch.baddbmm(norms, a, b.mT, alpha=-2).clamp_(min=0)


@torch.no_grad()
def median_distance(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
) -> Float[Tensor, " sets"]:
    """Median distance between different tokens of prediction and target joined, for every pair of sets.

    At most 64 evenly spread tokens of each side are looked at. Sets whose tokens all coincide get the smallest
    positive number instead of 0, so that a kernel with this bandwidth stays finite.
    """
    joined = torch.cat([_evenly_spread(pred_tokens), _evenly_spread(target_tokens)], dim=1)
    joined = joined - joined.mean(dim=1, keepdim=True)
    rows, columns = torch.triu_indices(joined.shape[1], joined.shape[1], offset=1, device=joined.device)
    median = squared_distances(joined, joined)[:, rows, columns].median(dim=-1).values
    return median.sqrt().clamp(min=torch.finfo(median.dtype).tiny ** 0.25)


def _evenly_spread(tokens: Tensor) -> Tensor:
    count = tokens.shape[1]
    if count <= _MEDIAN_TOKENS:
        return tokens
    return tokens[:, torch.linspace(0, count - 1, _MEDIAN_TOKENS, device=tokens.device).round().long()]
