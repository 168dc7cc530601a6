"""Whether a device multiplies in bfloat16, found out by letting it."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

_SIZE = 256


def bf16_slowdown(device: torch.device) -> float:
    """How many times as long a matrix product takes in bfloat16 as in float32; 1 or less where bfloat16 pays.

    CPUs without bfloat16 arithmetic emulate it a hundred times slower than they multiply in float32, and nothing
    but the clock says so. Takes a few milliseconds, there a few tenths of a second. CUDA devices say so themselves:
    where they have it the answer is 1, unmeasured, since products as small as these time little but their launch.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return 1.0
    left = torch.ones(_SIZE, _SIZE, device=device)
    half = left.to(torch.bfloat16)
    return _seconds(device, lambda: half @ half) / _seconds(device, lambda: left @ left)


def _seconds(device: torch.device, multiply: Callable[[], Tensor]) -> float:
    # The best of three, after one that warms up: others may be using the machine.
    spent = []
    for _ in range(4):
        started = time.perf_counter()
        # Reading a number waits for the device.
        multiply()[0, 0].item()
        spent.append(time.perf_counter() - started)
    return max(min(spent[1:]), 1e-9)
