"""The processes that `accelerate launch` starts, which share the batch of every step."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def join_processes() -> PartialState:
    """Meet the other processes, if there are any: through gloo on the CPU where there is no accelerator.

    To be called before anything else of accelerate, which takes a machine without accelerators for a single process.
    """
    no_accelerator = not torch.accelerator.is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or no_accelerator)
