"""Texts that people give a model: what no tokenizer takes, and what a model would not read of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from swd_video.models.base import VideoModel

_SPACES = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")
_UNREADABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff]")
_NAMED = 3
_SHOWN_CHARACTERS = 40


def clean_text(text: str) -> str:
    r"""A prompt or caption as every tokenizer takes it.

    Two surrogates that stand for one character, as JSON and YAML may write an emoji, become that character, and control
    characters that part words (a form feed, say) become spaces. Tabs and line ends stay.

    Raises:
        ValueError: if it holds a lone surrogate, or a control character that parts nothing, which a tokenizer would
            refuse or drop. The message says which and where, to be put behind the name of the text.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    text = _SPACES.sub(" ", text)
    if found := _UNREADABLE.search(text):
        kind = "half a character (a lone surrogate)" if found[0] >= "\ud800" else "a control character"
        raise ValueError(
            f"holds {kind}, U+{ord(found[0]):04X}, as character {found.start() + 1}; delete it or write the text anew."
        )
    return text


def on_one_line(text: str) -> str:
    """A name or a message as it can be printed anywhere, in one line: line ends as spaces, what has no form escaped."""
    return _UNREADABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", " ".join(text.split()))


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


def describe_error(error: BaseException) -> str:
    """An error that nobody foresaw, in one line: what kind it is, and its first line."""
    lines = str(error).strip().splitlines()
    return on_one_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)


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
