"""Ids of shots that were given none, made of their prompts: they stay when other shots are added or moved."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from swd_video.studio.script import Shot, id_problem

_LONGEST = 40
_WORD = re.compile(r"[A-Za-z0-9]+")


def with_ids(shots: Sequence[Shot]) -> tuple[Shot, ...]:
    """The shots, with ids for those whose id is empty.

    An id is made of the prompt's first words, and where these are not all of it, of a hash of the prompt. Shots of the
    same prompt are told apart by numbers, in order.
    """
    used = {shot.id.lower() for shot in shots if shot.id}
    counts: Counter[str] = Counter()
    found = []
    for shot in shots:
        if not shot.id:
            base = _id_of(shot.prompt)
            name = base
            while name in used:
                counts[base] += 1
                name = f"{base}-{counts[base] + 1}"
            used.add(name)
            shot = replace(shot, id=name)
        found.append(shot)
    return tuple(found)


def _id_of(prompt: str) -> str:
    plain = unicodedata.normalize("NFKD", prompt.lower())
    words = _WORD.findall("".join(sign for sign in plain if not unicodedata.combining(sign)))
    name = ""
    for number, word in enumerate(words):
        if len(name) + 1 + len(word) > _LONGEST:
            words = words[:number]
            break
        name += f"-{word}" if name else word
    letters = sum(sign.isalnum() for sign in plain)
    told = sum(map(len, words))
    if told < letters or id_problem(name):
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:4]
        name = f"{name or 'shot'}-{digest}"
    return name
