"""The order in which training clips are seen, in groups that share a caption."""

import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from accelerate import Accelerator

from swd_video.config import ConfigError
from swd_video.core.randomness import keyed_generator
from swd_video.data.latent_cache import LatentCache


class ClipOrder:
    """An endless shuffled order of groups of clips with the same caption.

    Every epoch cuts each caption's clips anew into groups of `group_size`; no clip is in two of them, and those that
    are left over sit the epoch out. A caption with fewer clips than that is never seen. With a size of 1 every clip is
    a group, and every epoch has each clip once.
    """

    def __init__(self, captions: Sequence[Hashable], group_size: int, seed: int) -> None:
        counts = Counter(captions)
        self.num_groups = sum(count // group_size for count in counts.values())
        self.num_captions = len(counts)
        self.num_captions_skipped = sum(count < group_size for count in counts.values())
        self._captions = captions
        self.group_size = group_size
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def group(self, position: int) -> tuple[int, ...]:
        """Indices of the clips that come at `position`."""
        epoch, offset = divmod(position, self.num_groups)
        return self._epoch(epoch)[offset]

    def _make_epoch(self, epoch: int) -> list[tuple[int, ...]]:
        order = torch.randperm(
            len(self._captions), generator=keyed_generator(self._seed, "order", epoch)
        ).tolist()
        groups = []
        waiting: dict[Hashable, list[int]] = defaultdict(list)
        for clip in order:
            group = waiting[self._captions[clip]]
            group.append(clip)
            if len(group) == self.group_size:
                groups.append(tuple(waiting.pop(self._captions[clip])))
        return groups


def order_clips(clips: LatentCache, group_size: int, seed: int, accelerator: Accelerator) -> ClipOrder:
    """The order of a run's clips; what has to be left out is said on stderr.

    Raises:
        ConfigError: if no caption has clips enough for a group.
    """
    order = ClipOrder(clips.captions, group_size, seed)
    if order.num_groups == 0:
        raise ConfigError(
            f"loss.group: no caption of the {len(clips)} clips has {group_size} of them; take smaller groups, or more "
            "clips of each caption"
        )
    if order.num_captions_skipped and accelerator.is_main_process:
        print(
            f"loss.group: {order.num_captions_skipped} of {order.num_captions} captions have fewer than {group_size} "
            "clips and are left out.",
            file=sys.stderr,
        )
    return order
