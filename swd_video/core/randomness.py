"""Generators keyed by what their draws are for, never by how often one was called before."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


def keyed_seed(*key: int | str) -> int:
    """A seed in [0, 2^63) for this key; different keys give unrelated seeds.

    Of these, torch's generator on the CPU reads the lower 32 bits: among 300,000 keys some ten pairs draw alike.

    Args:
        key: for example the run's seed, a word for the purpose, step and the sample's number.
    """
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by this key; draws made on the CPU are the same for every device.

    Source: noise keyed by (seed, step, rank), as in the code of EDM2 (arXiv 2312.02696).
    """
    return torch.Generator().manual_seed(keyed_seed(*key))


@contextmanager
def keyed_global(*key: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global generators, from which new networks draw their weights, seeded by this key while the block runs.

    Behind it the CPU's goes on where it was, and so does that of a CUDA `device`.
    """
    forked = [] if device is None or device.type != "cuda" else [device]
    with torch.random.fork_rng(forked):
        torch.manual_seed(keyed_seed(*key))
        yield


def keyed_choice(weights: Sequence[float], *key: int | str) -> int:
    """An index into `weights`, drawn in proportion to them."""
    point = keyed_seed(*key) / 2**63 * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1


class SampleDraws:
    """Random numbers for some samples of a batch, each sample's from a generator of its own.

    What a sample gets follows from its number and from what was drawn for it before, never from which other samples
    are beside it: a batch may be cut into pieces, and the pieces given to several processes, without changing a number.

    Args:
        samples: their numbers in the whole batch.
        key: for example the run's seed, a word for the purpose, and the step.

    Attributes:
        generators: one for each sample, on the CPU.
        shared: a generator, on the CPU, for what all samples of the batch have in common.
    """

    def __init__(self, samples: Sequence[int], *key: int | str) -> None:
        self.generators = [keyed_generator(*key, sample) for sample in samples]
        self.shared = keyed_generator(*key, "shared")

    def normal_like(self, clips: Float[Tensor, "batch *clip"]) -> Float[Tensor, "batch *clip"]:
        """Standard normal float32 noise of the clips' shape and on their device; one clip a sample."""
        assert len(clips) == len(self.generators), f"{len(clips)} clips for {len(self.generators)} samples"
        noise = [torch.randn(clips.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(noise).to(clips.device)

    def uniform(self) -> Float[Tensor, " batch"]:
        """A number in [0, 1) for each sample, on the CPU."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self.generators])
