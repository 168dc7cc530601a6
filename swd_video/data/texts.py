"""Texts that people give a model: what it would not read of them."""

from collections.abc import Callable, Iterable
from typing import TypedDict

from swd_video.models.base import VideoModel
from swd_video.plain_text import on_one_line

_NAMED = 3
_SHOWN_CHARACTERS = 40


class CutTexts(TypedDict):
    """How many texts a model reads only the beginning of, the tokens that it reads, and what the first of them have."""

    count: int
    max_tokens: int
    first: dict[str, int]


def cut_texts(
    model: VideoModel, texts: Iterable[str], on_failure: Callable[[str, Exception], object] | None = None
) -> CutTexts:
    """Count the texts, each once, of which a model reads only the beginning.

    By default what the tokenizer fails at is raised.
    """
    cut = CutTexts(count=0, max_tokens=model.max_tokens, first={})
    for text in dict.fromkeys(texts):
        try:
            tokens = model.count_tokens(text)
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(text, error)
            continue
        if tokens > model.max_tokens:
            cut["count"] += 1
            if len(cut["first"]) < _NAMED:
                cut["first"][text] = tokens
    return cut


def describe_cut(cut: CutTexts, what: str) -> str:
    """One line on texts that are cut, without a full stop; empty where none is.

    `what` is "caption", say; a plural is made with an s.
    """
    if not cut["count"]:
        return ""
    named = ", ".join(f"{_beginning(text)} ({tokens})" for text, tokens in cut["first"].items())
    more = ", ..." if cut["count"] > _NAMED else ""
    have, ends = ("s have", "their ends are") if cut["count"] > 1 else (" has", "its end is")
    return (
        f"{cut['count']} {what}{have} more tokens than the {cut['max_tokens']} the model reads, and {ends} lost: "
        f"{named}{more}"
    )


def _beginning(text: str) -> str:
    line = on_one_line(text)
    return repr(line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 3]}...")
