"""Where models run, and in which precision, by name; "auto" is what suits the machine."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose_device(name: str) -> str:
    """The device of this name; "auto" takes cuda, then mps, then cpu.

    Raises:
        ValueError: torch does not see it.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available[name]:
        there = ", ".join(device for device, found in available.items() if found)
        raise ValueError(f"device {name}: torch does not see one; it sees {there}. Try swd-video doctor.")
    return name


def choose_precision(name: str, device: str) -> "torch.dtype":
    """The precision of this name; "auto" takes bfloat16 on cuda and float32 elsewhere."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def device_name(device: str) -> str:
    """A device by its maker's name: the GPU's, else the processor's."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor by its maker's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
