"""Which takes can be computed together, and how many are."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from swd_video.studio.clips import PlannedClip
from swd_video.studio.folder import DRAFTS_REPORT_NAME, read_object
from swd_video.studio.script import MAX_TAKES

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


def kind_of(clip: PlannedClip) -> Hashable:
    """Clips that are equal in this can be computed together: size, and whether they start from a picture."""
    return clip.size, clip.take.shot.picture is not None or clip.continues is not None


def check_batch(batch: int | None) -> None:
    """Refuse, with a ValueError, what is no number of takes."""
    if batch is not None and not 1 <= batch <= MAX_TAKES:
        raise ValueError(f"--batch {batch}: expected a number of takes, from 1 to {MAX_TAKES}.")


def drafted_together(out: Path) -> int:
    """How many takes the last drafts in a folder of clips were computed with; 1 where there are none."""
    batch = read_object(out / DRAFTS_REPORT_NAME).get("batch")
    return batch if type(batch) is int and 1 <= batch <= MAX_TAKES else 1
