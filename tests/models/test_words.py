"""Which words a tokenizer knows, and in which form."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from swd_video.models.loading import resolve_model_path
from swd_video.models.words import describe_unknown, knows_nothing, unknown_words, with_known_words
from tools.pocket.corpus import BACKGROUNDS, MOTIONS, SUBJECTS

from ..fixtures import build_tiny_tokenizer


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer of a hundred whole words."""
    return AutoTokenizer.from_pretrained(Path(resolve_model_path("pocket-wan")) / "tokenizer")


def test_unknown_words_come_with_the_nearest_known_ones(words: Any) -> None:
    found = unknown_words(words, "a fox and two tigers, running to the fox")
    assert list(found) == ["fox", "and", "two", "tigers"]
    assert found["tigers"][0] == "tiger"
    assert describe_unknown({"fox": [], "tigers": ["tiger"]}) == "'fox', 'tigers' (nearest: tiger)"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\u201ca tiger\u201d moving left", "a tiger moving left"),
        ("a tiger\u2019s beach", "a tiger beach"),
        ("a tiger\u2014moving left\u2026", "a tiger-moving left..."),
        ("\uff54\uff49\uff47\uff45\uff52 (moving) left!", "tiger moving left"),
        ("a t\u00efger; moving/left", "a tiger moving left"),
        ("a tiger \N{TIGER FACE}, moving left", "a tiger \N{TIGER FACE}, moving left"),
        ("two  \u201ctigers\u201d", "two \u201ctigers\u201d"),
    ],
)
def test_forms_that_are_known_are_taken(text: str, read: str, words: Any) -> None:
    assert with_known_words(words, text) == read


def test_known_texts_stay_as_they_are(words: Any) -> None:
    for subject, motion, background in zip(SUBJECTS, MOTIONS * 9, BACKGROUNDS * 9, strict=False):
        text = f"A {subject},  {motion} {background}."
        assert with_known_words(words, text) == text and not unknown_words(words, text)


def test_texts_of_which_nothing_is_known(words: Any) -> None:
    assert knows_nothing(words, "foxes") and knows_nothing(words, "...")
    assert not knows_nothing(words, "a fox")


def test_a_tokenizer_of_bytes_knows_everything() -> None:
    text = "\u201cfoxes\u201d \N{TIGER FACE}"
    assert with_known_words(build_tiny_tokenizer(), text) == text
    assert not unknown_words(build_tiny_tokenizer(), text) and not knows_nothing(build_tiny_tokenizer(), text)
