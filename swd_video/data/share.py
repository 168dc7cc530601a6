"""Dividing work among processes and machines that know nothing of each other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_ItemT = TypeVar("_ItemT")
_PATTERN = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Share:
    """One share of the work: every `count`-th piece, from number `index` on.

    Attributes:
        index: from 0.
        count: shares in all.
    """

    index: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether there is no other share."""
        return self.count == 1

    def of(self, items: Sequence[_ItemT]) -> Sequence[_ItemT]:
        """The pieces of this share."""
        return items[self.index :: self.count]

    @classmethod
    def parse(cls, text: str | None) -> "Share":
        """Read "2/8", the second of eight shares; None is all of it.

        Raises:
            ValueError: if it is anything else.
        """
        if text is None:
            return cls()
        match = _PATTERN.fullmatch(text.strip())
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count:
            raise ValueError(
                f"--shard {text}: expected I/N with I from 1 to N, such as 1/4 for the first of four."
            )
        return cls(index - 1, count)


WHOLE = Share()
