"""Draws keyed by what they are for, so that a resumed run makes the draws it would have made."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from swd_video.core.randomness import keyed_generator, keyed_seed

__all__ = ["keyed_choice", "keyed_generator", "keyed_seed", "shuffled_index"]


def keyed_choice(weights: Sequence[float], *key: int | str) -> int:
    """An index into `weights`, drawn in proportion to them."""
    point = keyed_seed(*key) / 2**63 * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1


def shuffled_index(position: int, count: int, seed: int) -> int:
    """Which of `count` clips comes at `position` of an endless shuffled order; every epoch has each clip once."""
    epoch, offset = divmod(position, count)
    return _epoch_order(seed, epoch, count)[offset]


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=keyed_generator(seed, "order", epoch)).tolist()
    return order
