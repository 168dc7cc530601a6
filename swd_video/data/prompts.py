"""Lists of prompts: text files with one a line."""

import os
from collections.abc import Sequence
from pathlib import Path


class PromptsError(ValueError):
    """A list of prompts that cannot be used; the message is one line."""


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read prompts, one a line; blank lines are skipped.

    Raises:
        PromptsError: if the file cannot be read, or holds no prompt.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PromptsError(
            f"{path}: no such file of prompts; write one with a prompt on each line."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"{path}: cannot be read as text: {error}") from None
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise PromptsError(f"{path}: holds no prompt; write one on each line.")
    return prompts


def choose_prompts(prompts: Sequence[str], file: str | None, count: int | None = None) -> list[str]:
    """The prompts that a config names, in its own list or in a file.

    Args:
        prompts: its own list; empty where there is a file.
        file: the file.
        count: take the first so many.

    Raises:
        PromptsError: if a prompt is there twice or blank, or there are fewer than asked for.
    """
    chosen = list(prompts) if file is None else read_prompts(file)
    source = "prompts" if file is None else file
    seen: dict[str, int] = {}
    for number, prompt in enumerate(chosen, start=1):
        if not prompt.strip():
            raise PromptsError(f"{source}: prompt {number} is blank; drop it.")
        if prompt in seen:
            raise PromptsError(
                f"{source}: prompt {number}, {prompt!r}, is the same as {seen[prompt]}; name each prompt once and ask "
                "for several samples."
            )
        seen[prompt] = number
    if count is not None and count > len(chosen):
        raise PromptsError(f"num_prompts: got {count}, but there are {len(chosen)} prompts; lower it.")
    return chosen[:count]
