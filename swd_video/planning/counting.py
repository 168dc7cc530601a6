"""Counting what a computation costs, by letting it happen to shapes.

Operations are counted by torch's own `FlopCounterMode`: two for every multiply-add of a matrix product, a
convolution or an attention; element-wise work is not counted. Memory for a backward pass is the size of what autograd
keeps.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class GraphCost:
    """What a forward pass, its backward pass and the memory between them cost.

    Attributes:
        forward_flops: operations of the forward pass.
        attention_flops: those of them that are products of queries, keys and values.
        backward_flops: operations of the backward pass.
        saved_bytes: what autograd keeps for the backward pass, weights not counted.
    """

    forward_flops: int
    attention_flops: int
    backward_flops: int
    saved_bytes: int

    def extrapolated(self, next_cost: "GraphCost", times: int) -> "GraphCost":
        """This cost and `times` more of what `next_cost` has more than this."""

        def go_on(name: str) -> int:
            here = int(getattr(self, name))
            return here + times * (int(getattr(next_cost, name)) - here)

        return GraphCost(
            go_on("forward_flops"), go_on("attention_flops"), go_on("backward_flops"), go_on("saved_bytes")
        )


@cache
def shapes_only() -> FakeTensorMode:
    """The context in which tensors have a shape and a device but no memory; always the same one.

    They call themselves CPU tensors, so autocast and the choice of an attention that keeps no score matrix
    work as they do for real ones.
    """
    return FakeTensorMode()


def without_memory(module: nn.Module) -> nn.Module:
    """Turn a module's weights and buffers into tensors of `shapes_only`, in place."""
    with shapes_only():
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                    part._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return module


def count_flops(run: Callable[[], object]) -> int:
    """Operations of a call, without gradients."""
    with _counter() as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def count_graph(run: Callable[[], Tensor], network: nn.Module) -> GraphCost:
    """What it costs to compute a tensor and then, where it has any, its gradients.

    Args:
        run: computes the tensor; called once.
        network: its weights and buffers do not count as kept memory, casts of them do.
    """
    owned = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    with _counter() as counter, saved_tensors() as saved, warnings.catch_warnings():
        # Normalising bfloat16 by float32 weights is slower than need be, and no news here.
        warnings.filterwarnings("ignore", message="Mismatch dtype")
        output = run()
    forward, attention = counter.get_total_flops(), _attention_flops(counter)
    saved_bytes = sum(storage.nbytes() for key, storage in saved.items() if key not in owned)
    saved.clear()
    if not output.requires_grad:
        return GraphCost(int(forward), attention, 0, 0)
    with _counter() as counter:
        output.backward(torch.empty_like(output))
    for weight in network.parameters():
        weight.grad = None
    return GraphCost(int(forward), attention, int(counter.get_total_flops()), saved_bytes)


@contextmanager
def saved_tensors() -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect the storages that autograd keeps, each once, however many views of it are kept."""
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _counter() -> FlopCounterMode:
    return FlopCounterMode(
        display=False, custom_mapping={_ATTENTION: _attention, _ATTENTION_BACKWARD: _attention_backward}
    )


def _attention_flops(counter: FlopCounterMode) -> int:
    return int(counter.get_flop_counts().get("Global", {}).get(_ATTENTION, 0))


# torch counts the attention kernels of GPUs but not that of CPUs, which multiplies the same matrices.
def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, **named: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, **named: object
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))
