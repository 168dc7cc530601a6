"""Counting what a computation costs, by letting it happen to shapes.

Operations are counted by torch's own formulas: two for every multiply-add of a matrix product, a convolution or an
attention; element-wise work is not counted. Memory for a backward pass is the size of what autograd keeps. Fake tensors
find both and obey autocast; on the meta device operations are counted in half the time.

What torch calls for every operation is marked `no_type_check`: a plan makes tens of thousands, and tests would check
the signature, which is torch's, at each.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

# An attention that keeps no matrix of scores, as those of GPUs; of all such, only this one runs on CPUs too.
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Flops:
    """Operations of a forward pass and its backward pass.

    Attributes:
        forward: of the forward pass.
        attention: those of them that are products of queries, keys and values.
        backward: of the backward pass; 0 where there is none.
    """

    forward: int
    attention: int = 0
    backward: int = 0


@cache
def shapes_only() -> FakeTensorMode:
    """The context in which tensors have a shape and a device but no memory; always the same one.

    They call themselves CPU tensors, so autocast and the choice of an attention work as they do for real ones.
    """
    return FakeTensorMode()


def without_memory(module: nn.Module) -> nn.Module:
    """Turn all tensors that a module holds into those of `shapes_only`, in place."""
    with shapes_only():
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                    part._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
            for name, value in vars(part).items():
                if isinstance(value, Tensor):
                    setattr(part, name, torch.empty(value.shape, dtype=value.dtype))
    return module


class KernelAttention(TorchFunctionMode):
    """A context in which attention is one operation on the meta device, too, which otherwise takes it apart."""

    @no_type_check
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or the kernel in its place."""
        if func is scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def count_flops(run: Callable[[], object]) -> int:
    """Operations of a call, without gradients."""
    with FlopCounter() as counter, torch.no_grad():
        run()
    return counter.flops.total()


def count_graph(run: Callable[[], Tensor]) -> Flops:
    """Operations of computing a tensor and then, where it has any, its gradients; `run` is called once."""
    with FlopCounter() as counter:
        output = run()
    forward, attention = counter.flops.total(), counter.flops[_ATTENTION]
    if not output.requires_grad:
        return Flops(forward, attention)
    with FlopCounter() as counter:
        output.backward(torch.empty_like(output))
    return Flops(forward, attention, counter.flops.total())


def count_kept(run: Callable[[], Tensor], network: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of a computation.

    Weights and buffers of the network do not count, casts of them do.
    """
    owned = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # each once, however many views of it are kept

    def keep(tensor: Tensor) -> Tensor:
        saved[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for key, storage in saved.items() if key not in owned)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class FlopCounter(TorchDispatchMode):
    """Adds up operations by torch's own formulas.

    `FlopCounterMode`, to which the formulas belong, also tells modules apart and takes longer for it; tests hold the
    two to each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[Any] = Counter()

    @no_type_check
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and count it where it has a formula, or else what it consists of."""
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is None:
            # "prim" only asks where a fake tensor is.
            if func not in _WITHOUT_PARTS and func.namespace != "prim":
                with self:
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
                _WITHOUT_PARTS.add(func)
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        self.flops[func._overloadpacket] += formula(*args, **kwargs, out_val=output)
        return output


# Operations that consist of no others, as far as they were met: whether one does is the same at every call.
_WITHOUT_PARTS: set[Any] = set()


# torch counts the attention kernels of GPUs but not that of CPUs, which multiplies the same matrices.
def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: object, **named: object) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: object, **named: object
) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_FORMULAS = {**flop_registry, _ATTENTION: _attention, _ATTENTION_BACKWARD: _attention_backward}


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    assert not enable_gqa
    output, _ = _ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    return output
