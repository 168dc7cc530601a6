"""Lists of prompts: in a config, or in text files with one a line."""

import os
from collections.abc import Sequence

from swd_video.plain_text import clean_text, numbered_lines


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
