"""In which precision to train: whether a device multiplies in bfloat16 is found out by letting it."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from swd_video.models.fsdp import join_processes
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.optimizers import MuonConfig
from swd_video.training.provenance import ADAPTATION_FILE, CONFIG_FILE

_SIZE = 256
_SLOW = 2.0


def settle_precision(config: DistillConfig, folder: Path) -> DistillConfig:
    """The config with `mixed_precision: auto` replaced by what the first process's device does well.

    A run that was begun in `folder` keeps its precision: on a busy machine the clock may say otherwise today.
    """
    if config.train.mixed_precision != "auto":
        return config
    begun = [folder / name for name in (CONFIG_FILE, ADAPTATION_FILE) if (folder / name).is_file()]
    if begun:
        precision = load_config(begun[0]).train.mixed_precision
    else:
        precision = "bf16" if bf16_slowdown(join_processes().device) <= _SLOW else None
    # Clocks differ between processes; one of them decides for all.
    (precision,) = broadcast_object_list([precision])
    return config.model_copy(update={"train": config.train.model_copy(update={"mixed_precision": precision})})


def warn_of_slow_bf16(config: DistillConfig, accelerator: Accelerator) -> None:
    """Say on stderr, once, what a config asks for in vain."""
    uses = {
        "train.mixed_precision: bf16": config.train.mixed_precision == "bf16",
        # torch's Muon orthogonalises in bfloat16 whatever the weights are.
        "train.optimizer.kind: muon": isinstance(config.train.optimizer, MuonConfig),
    }
    keys = [key for key, used in uses.items() if used]
    if not keys or not accelerator.is_main_process:
        return
    slowdown = bf16_slowdown(accelerator.device)
    if slowdown > _SLOW:
        print(
            f"warning: {' and '.join(keys)} multiplies in bfloat16, for which this processor takes {slowdown:.0f} "
            "times as long as for float32.",
            file=sys.stderr,
        )


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
