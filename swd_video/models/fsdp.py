"""The processes that `accelerate launch` starts, and weights divided among them (FSDP2).

Each keeps a share of every block, and the whole block only while it runs.

Source: PyTorch FSDP (arXiv 2304.11277), in torch's `fully_shard`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def join_processes() -> PartialState:
    """Meet the other processes, if there are any: through gloo on the CPU where there is no accelerator.

    To be called before anything else of accelerate, which takes a machine without accelerators for a single process.
    """
    no_accelerator = not torch.accelerator.is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or no_accelerator)


def wants_sharding() -> bool:
    """Whether the launcher was given an FSDP config, as `configs/accelerate/fsdp2.yaml`, and several processes."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and PartialState().num_processes > 1


def shard_network(network: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Divide a network's weights among all processes, in place; gradients are averaged and divided alike.

    The parameters are other objects afterwards.
    """
    # Nobody changes what a network returns in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (PartialState().num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # Features of one network may be compared several times before a backward pass. The first comparison to be done
    # would put away what is outside of the blocks, and the next could not fetch it: its own output is not used.
    fully_shard(network, mesh=mesh).set_reshard_after_backward(False, recurse=False)


def reshard(network: nn.Module) -> None:
    """Drop what a process holds of a divided network beyond its share, which a change of the weights makes stale."""
    if isinstance(network, FSDPModule):
        network.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this process may hold a share; then all processes have to call it together."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()
    return gathered


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as `like` is, if that is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def full_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Tensors made whole one after the other, each moved to main memory before the next is gathered.

    Args:
        tensors: of which this process may hold shares; then all processes call this together.
        keep: whether this process wants them; else it gathers with the others, and the result is empty.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if keep:
            gathered[name] = full.to("cpu").contiguous()
    return gathered


def full_optimizer_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """`state_dict()` with whole tensors in main memory, as `full_tensors`; empty where this process keeps none."""
    saved: dict[str, Any] = optimizer.state_dict()
    state = {}
    for index, values in saved["state"].items():
        tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
        state[index] = values | full_tensors(tensors, keep)
    return saved | {"state": state} if keep else {}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """`load_state_dict()` from whole tensors."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        index: {
            key: shard_like(value, weights[index])
            if isinstance(value, Tensor) and value.shape == weights[index].shape
            else value
            for key, value in values.items()
        }
        for index, values in saved["state"].items()
    }
    optimizer.load_state_dict(saved | {"state": state})
