"""Generators keyed by what their draws are for, never by how often one was called before."""

import hashlib
from collections.abc import Sequence

import torch


def keyed_seed(*key: int | str) -> int:
    """A seed in [0, 2^63) for this key; different keys give unrelated seeds.

    Args:
        key: for example the run's seed, a word for the purpose, step, micro-batch and rank.
    """
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by this key; draws made on the CPU are the same for every device.

    Source: noise keyed by (seed, step, rank), as in the code of EDM2 (arXiv 2312.02696).
    """
    return torch.Generator().manual_seed(keyed_seed(*key))


def keyed_choice(weights: Sequence[float], *key: int | str) -> int:
    """An index into `weights`, drawn in proportion to them."""
    point = keyed_seed(*key) / 2**63 * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1
