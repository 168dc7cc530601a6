"""Words that a tokenizer does not know: it gives the model a token that means nothing instead."""

import difflib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

# What a keyboard has for what typesetting programs write.
_TYPESET = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_POSSESSIVE = re.compile(r"(?<=\w)'s?\b")
_OUTER = re.compile(r"^\W+|\W+$")
_REMEMBERED = 50_000
_LARGEST_VOCABULARY = 20_000
"""Larger ones hold pieces of words, which are no help to anybody."""


def unknown_words(tokenizer: Any, text: str) -> dict[str, list[str]]:
    """The parts of a text that a tokenizer has no token for, in order, each with the known words nearest to it.

    A tokenizer without an unknown token knows everything.
    """
    found = dict.fromkeys(_OUTER.sub("", word) or word for word in _unknown(tokenizer, text))
    return {word: list(_nearest(tokenizer, word.lower())) for word in found}


def knows_nothing(tokenizer: Any, text: str) -> bool:
    """Whether a text is no token at all to a tokenizer, or only unknown ones."""
    tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return all(token == tokenizer.unk_token_id for token in tokens)


def with_known_words(tokenizer: Any, text: str) -> str:
    """A text in which unknown words are written as a tokenizer knows them, where that is a matter of form alone.

    Forms are Unicode's compatible ones, quotes and dashes of typesetting, punctuation, a possessive's ending and
    accents. Words that are known, and texts of nothing else, stay as they are; so do words that stay unknown.
    """
    if not _unknown(tokenizer, text):
        return text
    words = (_known_form(tokenizer, word) for word in text.split())
    return " ".join(word for word in words if word)


def describe_unknown(words: Mapping[str, list[str]]) -> str:
    """The words, each with the nearest known ones, in a line."""
    return ", ".join(
        f"{word!r}" + (f" (nearest: {', '.join(near)})" if near else "") for word, near in words.items()
    )


# Many prompts share most of their words, and each takes several calls of a tokenizer.
@lru_cache(maxsize=_REMEMBERED)
def _nearest(tokenizer: Any, word: str) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(word, _short_vocabulary(tokenizer), n=2))


@lru_cache(maxsize=4)
def _short_vocabulary(tokenizer: Any) -> tuple[str, ...]:
    vocabulary = tokenizer.get_vocab()
    return () if len(vocabulary) > _LARGEST_VOCABULARY else tuple(sorted(filter(str.isalpha, vocabulary)))


@lru_cache(maxsize=_REMEMBERED)
def _known_form(tokenizer: Any, word: str) -> str:
    best, fewest, tried = word, len(_unknown(tokenizer, word)), {word}
    form = unicodedata.normalize("NFKC", word).translate(_TYPESET)
    for change in (str, _without_punctuation, _without_accents):
        if not fewest:
            break
        form = change(form)
        if form in tried:
            continue
        tried.add(form)
        if (count := len(_unknown(tokenizer, form))) < fewest:
            best, fewest = form, count
    return best


def _without_punctuation(word: str) -> str:
    word = _POSSESSIVE.sub("", word)
    spaced = "".join(" " if unicodedata.category(sign).startswith("P") else sign for sign in word)
    return " ".join(spaced.split())


def _without_accents(word: str) -> str:
    parts = unicodedata.normalize("NFKD", word)
    return "".join(sign for sign in parts if not unicodedata.combining(sign))


def _unknown(tokenizer: Any, text: str) -> list[str]:
    if tokenizer.unk_token_id is None or not text:
        return []
    if not tokenizer.is_fast:  # such a one does not say where its tokens stand
        words = text.split()
        return [
            word
            for word in words
            if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False).input_ids
        ]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
    return [text[start:end] for token, (start, end) in pairs if token == tokenizer.unk_token_id]
