"""What is said of texts that a model cannot read, or would read only the beginning of."""

from pathlib import Path

import pytest

from swd_video.data.texts import cut_texts, describe_cut
from swd_video.models.loading import load_teacher
from swd_video.plain_text import clean_text, on_one_line


def test_texts_as_tokenizers_take_them() -> None:
    assert clean_text("a tiger \ud83d\ude00 moving left") == "a tiger 😀 moving left"
    assert clean_text("a\x0bfox\x0cruns\x85far") == "a fox runs far"
    for kept in ("a fox,\n\trunning\r\n", "狐 وعل 🐯\u2028\u200d", ""):
        assert clean_text(kept) == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a tiger\uffff", r"what is no character, U\+FFFF, as character 8;"),
        ("a tiger \ud83d moving", r"half a character \(a lone surrogate\), U\+D83D, as character 9;"),
        ("\ude00\ud83d", r"U\+DE00, as character 1;"),
        ("a tiger\0 moving left", r"a control character, U\+0000, as character 8;"),
        ("😀\x9b31m", r"U\+009B, as character 2;"),
    ],
)
def test_texts_that_no_tokenizer_takes(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean_text(text)


def test_names_fit_on_one_line() -> None:
    assert on_one_line("a\n b\ud83d\0\x1b[31m狐") == "a b\\ud83d\\u0000\\u001b[31m狐"


def test_cut_texts_are_counted_and_named(tiny_wan_folder: Path) -> None:
    """The tokenizer has a token for each byte, and one at the end; the model reads 48."""
    model = load_teacher(tiny_wan_folder)
    fits = "x" * 47
    long = {f"{letter}{fits}": 49 for letter in "abcd"} | {"e" * 160: 161}
    cut = cut_texts(model, [fits, *long, "é" * 23])
    assert cut == {"count": 5, "max_tokens": 48, "first": dict(list(long.items())[:3])}
    line = describe_cut(cut, "caption")
    assert line.startswith(
        "5 captions have more tokens than the 48 the model reads, and their ends are lost: "
    )
    assert line.endswith(f"'c{'x' * 36}...' (49), ...")
    line = describe_cut({"count": 1, "max_tokens": 48, "first": {"a\nb": 50}}, "prompt")
    assert line.startswith("1 prompt has more tokens") and line.endswith("its end is lost: 'a b' (50)")
    assert describe_cut(cut_texts(model, [fits]), "prompt") == ""
