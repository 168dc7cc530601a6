"""Weights divided among processes (FSDP2): each keeps a share of every block, and the whole block only while it runs.

Source: PyTorch FSDP (arXiv 2304.11277), in torch's `fully_shard`.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def wants_shards() -> bool:
    """Whether the launcher was given an FSDP config, as `configs/accelerate/fsdp2.yaml`, and several processes."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and PartialState().num_processes > 1


def divide_weights(network: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Divide a network's weights among all processes, in place; gradients are averaged and divided alike.

    The parameters are other objects afterwards.

    Args:
        network: of which every process has the whole.
        blocks: its parts that run one after the other.
        device: where it runs.
    """
    # Nobody changes what a network returns in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (PartialState().num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # Features of one network may be compared several times before a backward pass. The first comparison to be done
    # would put away what is outside of the blocks, and the next could not fetch it: its own output is not used.
    fully_shard(network, mesh=mesh).set_reshard_after_backward(False, recurse=False)


def put_away(network: nn.Module) -> None:
    """Drop what a process holds of a divided network beyond its share, which a change of the weights makes stale."""
    if isinstance(network, FSDPModule):
        network.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this process may hold a share; then all processes have to call it together."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()
    return gathered


def share_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as `like` is, if that is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def whole_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`state_dict()` with whole tensors; all processes call it together."""
    saved: dict[str, Any] = optimizer.state_dict()
    state = {
        index: {key: _if_tensor(value) for key, value in kept.items()}
        for index, kept in saved["state"].items()
    }
    return saved | {"state": state}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """`load_state_dict()` from whole tensors."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        index: {
            key: share_like(value, weights[index])
            if isinstance(value, Tensor) and value.shape == weights[index].shape
            else value
            for key, value in kept.items()
        }
        for index, kept in saved["state"].items()
    }
    optimizer.load_state_dict(saved | {"state": state})


def _if_tensor(value: Any) -> Any:
    return whole(value) if isinstance(value, Tensor) else value
