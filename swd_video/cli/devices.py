"""The `--device` of commands: which one torch sees."""


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
        raise ValueError(f"--device {name}: torch does not see one; it sees {there}. Try swd-video doctor.")
    return name
