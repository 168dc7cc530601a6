"""Texts that people give a model: what it would not read of them."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from swd_video.models.base import VideoModel
from swd_video.plain_text import on_one_line

_NAMED = 3
_SHOWN_CHARACTERS = 40


def cut_texts(
    model: VideoModel, texts: Iterable[str], on_failure: Callable[[str, Exception], object] | None = None
) -> dict[str, int]:
    """The texts of which a model reads only the beginning, in order, with the tokens that they have.

    Args:
        model: counts, and says how many it reads.
        texts: as `clean_text` gave them.
        on_failure: called with a text at which the tokenizer fails, and how; by default the failure is raised.
    """
    cut = {}
    for text in texts:
        try:
            count = model.count_tokens(text)
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(text, error)
            continue
        if count > model.max_tokens:
            cut[text] = count
    return cut


def describe_cut(cut: Mapping[str, int], max_tokens: int, what: str, count: int | None = None) -> str:
    """One line that says how many texts are cut, and names the first; it ends without a full stop.

    Args:
        cut: what `cut_texts` gave; not empty.
        max_tokens: what the model reads.
        what: "caption", say; a plural is made with an s.
        count: how many there are, where `cut` has only the first.
    """
    count = count or len(cut)
    named = ", ".join(f"{_beginning(text)} ({tokens})" for text, tokens in islice(cut.items(), _NAMED))
    more = ", ..." if count > _NAMED else ""
    have, ends = ("s have", "their ends are") if count > 1 else (" has", "its end is")
    return f"{count} {what}{have} more tokens than the {max_tokens} the model reads, and {ends} lost: {named}{more}"


def summarize_cut(cut: Mapping[str, int], max_tokens: int) -> dict[str, Any]:
    """The same for a file: how many, what the model reads, and the first texts with their tokens."""
    return {"count": len(cut), "max_tokens": max_tokens, "first": dict(islice(cut.items(), _NAMED))}


def _beginning(text: str) -> str:
    line = on_one_line(text)
    return repr(line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 3]}...")
