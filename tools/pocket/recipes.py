"""What the recipes of the pocket networks share: precision, threads, and time."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from swd_video.training.optimizers import learning_rate_share
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


class Clock:
    """How far a training is, by its steps or, where it may take so long only, by its time, restarts added up."""

    def __init__(self, steps: int, minutes: float | None) -> None:
        """Start it.

        Args:
            steps: after which the training ends at the latest.
            minutes: after which it ends as well; None for no limit.
        """
        self._steps, self._minutes = steps, minutes
        self._started = time.monotonic()

    def progress(self, done: int) -> float:
        """Share of the training that lies behind after so many steps."""
        return max(done / self._steps, self._share_of_time())

    def is_over(self, done: int) -> bool:
        """Whether the training ends after so many steps."""
        return self.progress(done) >= 1

    def learning_rate_share(self, done: int, warmup_steps: int = 100) -> float:
        """`learning_rate_share`, which falls as the end comes nearer in steps or in time."""
        by_steps = learning_rate_share(done, self._steps, warmup_steps)
        return min(by_steps, learning_rate_share(self._share_of_time(), 1, warmup_steps=0))

    def _share_of_time(self) -> float:
        return 0.0 if self._minutes is None else (time.monotonic() - self._started) / (60 * self._minutes)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"seconds": time.monotonic() - self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint says."""
        self._started = time.monotonic() - state["seconds"]
