"""Tokens between the blocks of a transformer, and blocks left out, by hooks: no family's forward pass is copied."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from diffusers.hooks import HookRegistry
from diffusers.hooks.layer_skip import TransformerBlockSkipHook
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


def capture_blocks(
    blocks: Sequence[nn.Module], after: nn.Module | None, wanted: Sequence[int], run: Callable[[], object]
) -> list[Tensor]:
    """Run a network until the last wanted block is done, and return what the wanted blocks put out.

    A network whose weights are divided among processes runs to its end, or it would not put them away.

    Of a block that puts out several streams, the first one is kept: the video's.

    Args:
        blocks: all blocks of the network, in the order in which they run.
        after: the module that runs after the last block, if any.
        wanted: indices of blocks, from 0, in the order of the result.
        run: calls the network.

    Raises:
        ValueError: if a block does not exist, or none is asked for.
    """
    count = len(blocks)
    if not wanted or min(wanted) < 0 or max(wanted) >= count:
        raise ValueError(
            f"features: got blocks {list(wanted)}, expected at least one index from 0 to {count - 1}; "
            f"this transformer has {count} blocks."
        )
    last = max(wanted)
    # Stopping at the next module's door, not inside the last block, lets gradient checkpointing finish
    # with that block properly.
    after_last = blocks[last + 1] if last + 1 < count else after
    captured: dict[int, Tensor] = {}

    def keep(
        index: int, module: nn.Module, inputs: tuple[Any, ...], output: Tensor | tuple[Any, ...]
    ) -> None:
        captured[index] = output[0] if isinstance(output, tuple) else output

    def stop(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise _FeaturesComplete

    with ExitStack() as hooks, suppress(_FeaturesComplete):
        for index in set(wanted):
            hooks.callback(blocks[index].register_forward_hook(partial(keep, index)).remove)
        if after_last is not None and not isinstance(blocks[0], FSDPModule):
            hooks.callback(after_last.register_forward_pre_hook(stop).remove)
        run()
    return [captured[index] for index in wanted]


@contextmanager
def left_out(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which blocks hand on what they are given."""
    with ExitStack() as hooks:
        for block in blocks:
            registry = HookRegistry.check_if_exists_or_initialize(block)
            registry.register_hook(TransformerBlockSkipHook(dropout=1.0), "left out")
            hooks.callback(registry.remove_hook, "left out")
        yield


class _FeaturesComplete(Exception):
    """Raised from a hook, once the last wanted block has run."""
