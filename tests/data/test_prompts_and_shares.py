from pathlib import Path

import pytest

from swd_video.data.share import Share
from swd_video.data.texts import choose_prompts, read_prompts


def test_prompts_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa fox\r\n\n  a bird at night \n# 5\n", encoding="utf-8")
    assert read_prompts(path) == ["a fox", "a bird at night", "# 5"]
    assert choose_prompts((), str(path), 2) == ["a fox", "a bird at night"]


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(ValueError, match="no such file of prompts"):
        read_prompts(path)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(path)
    path.write_text("a fox\na bird\na fox\n")
    with pytest.raises(ValueError, match=r"list\.txt: prompt 3, 'a fox', is the same as 1"):
        choose_prompts((), str(path))
    with pytest.raises(ValueError, match="num_prompts: got 3, but there are 2"):
        choose_prompts(("a", "b"), None, 3)


def test_prompts_as_tokenizers_take_them(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("a fox\r\na\x0cbird\r\n".encode("utf-16"))
    assert read_prompts(path) == ["a fox", "a bird"]
    path.write_text("a fox\n\na\0bird\n")
    with pytest.raises(
        ValueError, match=r"list\.txt: line 3: holds a control character, U\+0000, as character 2"
    ):
        read_prompts(path)
    assert choose_prompts(["a \ud83d\ude00"], None) == ["a 😀"]
    with pytest.raises(ValueError, match="prompts: prompt 2 holds half a character"):
        choose_prompts(["a", "b \ud83d"], None)


def test_parts_are_disjoint_and_whole() -> None:
    items = list(range(11))
    parts = [Share.parse(f"{number}/3").of(items) for number in (1, 2, 3)]
    assert sorted(item for part in parts for item in part) == items
    assert Share.parse(None).of(items) == items


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_other_parts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--shard"):
        Share.parse(text)
