"""Lists of prompts: text files with one a line."""

import os
from collections.abc import Sequence

from swd_video.plain_text import clean_text, read_text


class PromptsError(ValueError):
    """A list of prompts that cannot be used; the message is one line."""


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read prompts, one a line; blank lines are skipped.

    Raises:
        PromptsError: if the file cannot be read, holds no prompt, or one that no tokenizer takes.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise PromptsError(
            f"{path}: no such file of prompts; write one with a prompt on each line."
        ) from None
    except (OSError, ValueError) as error:
        raise PromptsError(f"{path}: cannot be read as text: {error}") from None
    lines = enumerate(text.split("\n"), start=1)
    prompts = [
        clean_prompt(line, f"{path}: line {number}:").strip() for number, line in lines if line.strip()
    ]
    if not prompts:
        raise PromptsError(f"{path}: holds no prompt; write one on each line.")
    return prompts


def clean_prompt(text: str, where: str) -> str:
    """A prompt as tokenizers take it, see `clean_text`.

    Args:
        text: the prompt.
        where: how a message starts: the key or the line of it.

    Raises:
        PromptsError: if none takes it.
    """
    try:
        return clean_text(text)
    except ValueError as error:
        raise PromptsError(f"{where} {error}") from None


def choose_prompts(prompts: Sequence[str], file: str | None, count: int | None = None) -> list[str]:
    """The prompts that a config names, in its own list or in a file.

    Args:
        prompts: its own list; empty where there is a file.
        file: the file.
        count: take the first so many.

    Raises:
        PromptsError: if a prompt is there twice or blank, no tokenizer takes it, or there are fewer than asked for.
    """
    named = enumerate(prompts, start=1)
    chosen = (
        [clean_prompt(prompt, f"prompts: prompt {n}") for n, prompt in named]
        if file is None
        else read_prompts(file)
    )
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
