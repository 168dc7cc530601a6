"""What the recipes of the pocket networks share: precision, and threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from swd_video.training.precision import bf16_slowdown


def fastest_precision(device: str = "cpu") -> str:
    """Return bf16 where this device multiplies no slower in bfloat16 than in float32, else fp32."""
    return "bf16" if bf16_slowdown(torch.device(device)) <= 1 else "fp32"


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager[object]:
    """A context that runs networks in this precision; weights and optimizers stay float32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


def threaded_backward(losses: Sequence[Callable[[], Tensor]], precision: str, device: str = "cpu") -> float:
    """Gradients of the mean of several losses, each computed on one core by a thread of its own.

    Small layers keep one core busy and leave the others waiting; parts of a batch side by side do not. Two parts add
    up to the same gradient in either order, so two threads change nothing from run to run.

    Returns:
        The mean loss.
    """

    def run(loss_of_part: Callable[[], Tensor]) -> float:
        torch.set_num_threads(1)
        with autocast(precision, device):
            loss = loss_of_part() / len(losses)
        loss.backward()
        return loss.item()

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(losses)) as pool:
            return sum(pool.map(run, losses))
    finally:
        torch.set_num_threads(threads)  # the optimizer's products are the whole machine's again
