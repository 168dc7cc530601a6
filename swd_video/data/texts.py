"""Texts that people give a model: lists of prompts, and what it would not read of a text."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

from swd_video.models.base import VideoModel
from swd_video.plain_text import clean_text, numbered_lines, on_one_line

_NAMED = 3
_SHOWN_CHARACTERS = 40


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read prompts, one a line; blank lines are skipped.

    Raises:
        ValueError: if the file cannot be read, holds no prompt, or one that no tokenizer takes.
    """
    lines = numbered_lines(path, "no such file of prompts; write one with a prompt on each line.")
    prompts = [clean_text(line, f"{path}: line {number}:").strip() for number, line in lines]
    if not prompts:
        raise ValueError(f"{path}: holds no prompt; write one on each line.")
    return prompts


def choose_prompts(prompts: Sequence[str], file: str | None, count: int | None = None) -> list[str]:
    """The prompts that a config names, in its own list or in a file.

    Raises:
        ValueError: if a prompt is there twice or blank, no tokenizer takes it, or there are fewer than asked for.
    """
    source = "prompts" if file is None else file
    if file is None:
        chosen = [clean_text(prompt, f"prompts: prompt {n}") for n, prompt in enumerate(prompts, start=1)]
    else:
        chosen = read_prompts(file)
    seen: dict[str, int] = {}
    for number, prompt in enumerate(chosen, start=1):
        if not prompt.strip():
            raise ValueError(f"{source}: prompt {number} is blank; drop it.")
        if prompt in seen:
            raise ValueError(
                f"{source}: prompt {number}, {prompt!r}, is the same as {seen[prompt]}; name each prompt once and ask "
                "for several samples."
            )
        seen[prompt] = number
    if count is not None and count > len(chosen):
        raise ValueError(f"num_prompts: got {count}, but there are {len(chosen)} prompts; lower it.")
    return chosen[:count]


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
