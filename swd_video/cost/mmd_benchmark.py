"""Cost of the kernel MMD: the exact loss beside the naive form and random features, on random tokens."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from swd_video.cost.process_memory import in_fresh_process, peak_gib_above
from swd_video.cost.speed import Sampler, time_interleaved
from swd_video.losses.kernels import RadialKernel, RationalQuadratic, Rbf
from swd_video.losses.mmd import kernel_mmd, linear_mmd
from swd_video.losses.random_features import random_features

_DRAWS = 16

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        tokens: of the prediction and of the target.
        channels: of a token.
        kernel: `rbf` or `rational_quadratic`.
        bandwidths: in median distances.
        device: `cpu` or `cuda`.
    """

    tokens: int
    channels: int
    kernel: str
    bandwidths: tuple[float, ...]
    device: str

    def make_kernel(self) -> RadialKernel:
        """The kernel."""
        return {"rbf": Rbf, "rational_quadratic": RationalQuadratic}[self.kernel](self.bandwidths)

    def make_tokens(self) -> tuple[Float[Tensor, "1 tokens channels"], Float[Tensor, "1 tokens channels"]]:
        """Predicted tokens, with gradient, and target tokens whose mean and spread are a tenth off."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.tokens, self.channels)
        pred, target = (torch.randn(shape, generator=generator) for _ in range(2))
        target.mul_(1.1).add_(0.1)
        return pred.to(self.device).requires_grad_(), target.to(self.device)


def measure_exact(case: Case) -> dict[str, Any]:
    """Peak memory and seconds of one exact forward and backward pass, in a fresh process."""
    measured = in_fresh_process(_measure, case, "exact")
    return {**asdict(case), "dtype": "float32", "threads": torch.get_num_threads(), **measured}


def compare_with_naive(case: Case, num_features: int, rounds: int) -> dict[str, Any]:
    """Seconds side by side in this process, and the error of random features against the exact value."""
    kernel = case.make_kernel()
    pred, target = case.make_tokens()
    losses: dict[str, Loss] = {name: partial(loss, kernel=kernel) for name, loss in _LOSSES.items()}
    if isinstance(kernel, Rbf):
        losses["random_features"] = _random_features(kernel, num_features, seed=0)
    samplers = {
        name: Sampler(partial(_forward_backward, loss, pred, target)) for name, loss in losses.items()
    }
    timings = time_interleaved(samplers, rounds=rounds)
    seconds = {name: median(timing.total for timing in runs) for name, runs in timings.items()}
    with torch.no_grad():
        exact, naive = (losses[name](pred, target).item() for name in ("exact", "naive"))
    result: dict[str, Any] = {
        "naive": {
            "tokens": case.tokens,
            "exact_seconds": seconds["exact"],
            "seconds": seconds["naive"],
            "exact_over_naive_seconds": seconds["exact"] / seconds["naive"],
            "exact_loss": exact,
            "loss": naive,
            "peak_gib_above_inputs": in_fresh_process(_measure, case, "naive")["peak_gib_above_inputs"],
        }
    }
    if isinstance(kernel, Rbf):
        draws = [
            _random_features(kernel, num_features, seed)(pred.detach(), target) for seed in range(_DRAWS)
        ]
        result["random_features"] = {
            "tokens": case.tokens,
            "frequencies": num_features,
            "seconds": seconds["random_features"],
            "draws": _DRAWS,
            "relative_error": (torch.stack(draws) / exact - 1).square().mean().sqrt().item(),
        }
    return result


def naive_mmd(
    pred_tokens: Float[Tensor, "sets pred_tokens channels"],
    target_tokens: Float[Tensor, "sets target_tokens channels"],
    kernel: RadialKernel,
) -> Float[Tensor, ""]:
    """The biased squared MMD as a textbook has it: three whole matrices of pairs, kept for the backward pass."""
    precisions = kernel.precisions(pred_tokens, target_tokens)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :] - 2 * torch.bmm(a, b.mT)
        means = []
        for precision in precisions[:, :, None, None].unbind(1):
            if isinstance(kernel, RationalQuadratic):
                means.append((1 + squared * (precision / kernel.alpha)).pow(-kernel.alpha).mean())
            else:
                means.append(torch.exp(-squared * precision).mean())
        return torch.stack(means).mean()

    inside = mean_kernel(pred_tokens, pred_tokens) + mean_kernel(target_tokens, target_tokens)
    return inside - 2 * mean_kernel(pred_tokens, target_tokens)


_LOSSES: dict[str, Callable[..., Tensor]] = {"exact": kernel_mmd, "naive": naive_mmd}


def _measure(case: Case, name: str) -> dict[str, float]:
    loss = partial(_LOSSES[name], kernel=case.make_kernel())
    _forward_backward(loss, *replace(case, tokens=64).make_tokens())  # libraries load their work buffers
    pred, target = case.make_tokens()
    values: list[float] = []
    started = time.perf_counter()
    peak = peak_gib_above(lambda: values.append(_forward_backward(loss, pred, target)), pred.device)
    return {
        "inputs_gib": (pred.nbytes + target.nbytes) / 2**30,
        "peak_gib_above_inputs": peak,
        "seconds": time.perf_counter() - started,
        "loss": values[0],
    }


def _forward_backward(loss: Loss, pred: Tensor, target: Tensor) -> float:
    value = loss(pred, target)
    torch.autograd.grad(value, pred)
    return value.item()


def _random_features(kernel: Rbf, count: int, seed: int) -> Loss:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return linear_mmd(*random_features(pred, target, kernel, count, generator))

    return loss
