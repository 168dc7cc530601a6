"""Texts that people wrote, and messages put together of several."""

import pytest

from swd_video.plain_text import sentence


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("no room", "no room."),
        ("no room.", "no room."),
        ("is it?", "is it?"),
        ("(no room.)", "(no room.)"),
        ("[Errno 21] Is a directory: 'a.mp4'", "[Errno 21] Is a directory: 'a.mp4'."),
        ("", ""),
    ],
)
def test_a_sentence_ends_once(text: str, ended: str) -> None:
    assert sentence(text) == sentence(ended) == ended
