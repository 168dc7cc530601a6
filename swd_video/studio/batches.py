"""Which takes can be computed together."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


def in_batches(items: Iterable[_Item], key: Callable[[_Item], Hashable], size: int) -> Iterator[list[_Item]]:
    """Items of the same key, so many at a time; the last of each key are fewer.

    A batch comes as soon as it is full. At most one of each key waits.
    """
    waiting: dict[Hashable, list[_Item]] = {}
    for item in items:
        batch = waiting.setdefault(kind := key(item), [])
        batch.append(item)
        if len(batch) == size:
            yield waiting.pop(kind)
    yield from waiting.values()
