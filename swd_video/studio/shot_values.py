"""The keys of a script and what may stand at them, from the texts that files of any form hold; ids that are made."""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from swd_video.files import expand_home
from swd_video.plain_text import clean_text, on_one_line
from swd_video.studio.script import (
    ASPECT,
    DEFAULT_CROSSFADE_SECONDS,
    LONGEST_SECONDS,
    MAX_FRAMES,
    MAX_TAKES,
    SEED_LIMIT,
    FilmSettings,
    Shot,
    Transition,
    id_problem,
)
from swd_video.yaml_source import SourceError, read_each

LIST_KEYS = frozenset({"pick", "keep", "trim", "order"})
"""Keys with several values; in a text they stand between commas."""

SHOT_KEYS = (
    "id", "prompt", "picture", "seconds", "frames", "size", "aspect", "seed", "takes", "pick", "keep", "continues",
    "title", "trim", "transition", "marker",
)  # fmt: skip
"""Of a shot."""

SCRIPT_KEYS = ("title", "model", "seed", "size", "aspect", "defaults", "film", "shots")
"""At the top of a script."""

DEFAULT_KEYS = ("seconds", "takes")
"""Of `defaults`."""

FILM_KEYS = ("sound", "order", "crossfade", "titles")
"""Of `film`."""

_NO_GUIDANCE = (
    "a student was distilled from a guided teacher: it takes no guidance and no negative prompt. Drop it"
)
_FIXED_STAGES = (
    "a student has the stages that it was distilled for, with their noise levels and samplers. Drop it"
)
REFUSED_KEYS = {
    **dict.fromkeys(("negative", "negative_prompt", "guidance", "guidance_scale", "cfg", "cfg_scale"), _NO_GUIDANCE),
    **dict.fromkeys(
        ("steps", "num_inference_steps", "sampler", "scheduler", "flow_shift", "discrete_flow_shift", "strength"),
        _FIXED_STAGES,
    ),
    "fps": "a model makes clips of one frame rate. Drop it, and give `seconds` or `frames`",
    "lora": "a student is one set of weights. Drop it, and name another student as the script's `model`",
}  # fmt: skip
"""Keys of other tools that a student cannot honour, and why."""

_WORD = re.compile(r"[A-Za-z0-9]+")
_LONGEST_ID = 40
_WHOLE_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"\+?(([1-9][0-9]*|0)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_SIZE = re.compile(r"([1-9][0-9]{0,4})\s*[x×X]\s*([1-9][0-9]{0,4})")
_YES, _NO = ("true", "yes", "all"), ("false", "no", "none")


class Written(NamedTuple):
    """A value as a file has it: its text, and the line on which it starts."""

    text: str
    line: int


class Value(NamedTuple):
    """A value as it is meant."""

    value: Any
    line: int


Fail: TypeAlias = Callable[[int, str, str], SourceError]
"""Makes the error of a line, a key and a problem."""


def read_values(written: Mapping[str, Written], fail: Fail) -> dict[str, Value]:
    """The values of texts by key.

    Raises:
        SourceError: made by `fail`, for all texts that cannot stand at their keys.
    """

    def read(key: str) -> Value:
        text, line = written[key]
        try:
            return Value(_READERS[key](text), line)
        except ValueError as error:
            raise fail(line, key, str(error)) from None

    values = dict(zip(written, read_each(read, written), strict=True))
    for one, other in _INSTEAD:
        if one in written and other in written:
            raise fail(
                written[other].line, other, f"stands beside `{one}`, which says the same. Keep one of them."
            )
    return values


def make_shot(
    own: Mapping[str, Value],
    defaults: Mapping[str, Value],
    line: int,
    folder: Path,
    shot_id: str | None = None,
) -> Shot:
    """A shot of its values and, where it does not say otherwise, the script's.

    Its own are a prompt at least, and an id unless `shot_id` is given; the path of a picture starts at the folder.
    """
    values = overridden(defaults, own)
    given = {"id": shot_id} | {key: value.value for key, value in values.items()}
    if "picture" in given:
        given["picture"] = folder / expand_home(given["picture"])
    return Shot(**given, line=line, lines={key: value.line for key, value in values.items()})


def overridden(values: Mapping[str, Value], by: Mapping[str, Value]) -> dict[str, Value]:
    """Values, and others that take their place; a size takes that of an aspect too, and seconds that of frames."""
    replaced = {other for pair in _INSTEAD for other in pair if set(pair) & set(by)}
    return {key: value for key, value in values.items() if key not in replaced} | dict(by)


def with_ids(shots: Sequence[Shot]) -> tuple[Shot, ...]:
    """The shots, with ids for those whose id is empty.

    An id is made of the prompt's first words, and where these are not all of it, of a hash of the prompt: it stays when
    other shots are added or moved. Shots of the same prompt are told apart by numbers, in order.
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
        if len(name) + 1 + len(word) > _LONGEST_ID:
            words = words[:number]
            break
        name += f"-{word}" if name else word
    letters = sum(sign.isalnum() for sign in plain)
    told = sum(map(len, words))
    if told < letters or id_problem(name):
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:4]
        name = f"{name or 'shot'}-{digest}"
    return name


def make_film(values: Mapping[str, Value], line: int, folder: Path) -> FilmSettings:
    """The film's settings of their values."""
    settings = {key: value.value for key, value in values.items()}
    if "sound" in settings:
        settings["sound"] = folder / expand_home(settings["sound"])
    return FilmSettings(**settings, line=line, lines={key: value.line for key, value in values.items()})


def wanted(key: str) -> str:
    """What stands at a key, for messages."""
    return _WANTED.get(key, "text")


# Readers, each of the text at some keys. They raise a `ValueError` where it cannot stand there.


def _read_text(text: str) -> str:
    return " ".join(_read_name(text).split())


def _read_name(text: str) -> str:
    """Of a file or model, which may have several blanks in a row."""
    cleaned = clean_text(text).strip()
    if not cleaned:
        raise ValueError("expected text, got an empty one. Write something, or drop the key.")
    return cleaned


def _read_id(text: str) -> str:
    shot_id = _read_text(text)
    if problem := id_problem(shot_id):
        raise ValueError(problem)
    return shot_id


def _read_seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value <= LONGEST_SECONDS:
        wanted = "above 0, such as 2.5" if not value > 0 else f"up to {LONGEST_SECONDS:g}"
        raise ValueError(
            f"expected seconds {wanted}, got {_shown(text)}. Drop the key to get the model's native length."
        )
    return value


def _read_whole(text: str, minimum: int, limit: int) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or not minimum <= int(text) < limit:
        raise ValueError(
            f"expected a whole number from {minimum} to {limit - 1} in plain digits, got {_shown(text)}. Correct or "
            "drop it."
        )
    return int(text)


def _read_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of "832x480", which has the width first, as people say it."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"expected WIDTHxHEIGHT in pixels, such as 832x480, got {_shown(text)}. Correct or drop it."
        )
    return int(found[2]), int(found[1])


def _read_aspect(text: str) -> str:
    found = ASPECT.fullmatch(text.strip())
    if not found:
        raise ValueError(f"expected WIDTH:HEIGHT, such as 16:9, got {_shown(text)}. Correct or drop it.")
    return f"{found[1]}:{found[2]}"


def _read_takes(text: str) -> tuple[int, ...]:
    numbers = tuple(_read_whole(part, 1, MAX_TAKES + 1) for part in _split(text))
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"expected numbers of takes, each once, such as 3 or 1, 3, got {_shown(text)}.")
    return numbers


def _read_keep(text: str) -> bool | tuple[int, ...]:
    """All, none, or these numbers."""
    return _read_yes(text) if text.strip().lower() in (*_YES, *_NO) else _read_takes(text)


def _read_yes(text: str) -> bool:
    word = text.strip().lower()
    if word not in (*_YES, *_NO):
        raise ValueError(f"expected true or false, got {_shown(text)}. Correct or drop it.")
    return word in _YES


def _read_trim(text: str) -> tuple[float, float]:
    numbers = tuple(_number(part) for part in _split(text))
    if len(numbers) != 2 or not all(0 <= number <= LONGEST_SECONDS for number in numbers):
        raise ValueError(
            f"expected the seconds to cut off at the start and at the end, such as 0.2, 0.5, got {_shown(text)}."
        )
    return numbers[0], numbers[1]


def _read_crossfade(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= LONGEST_SECONDS:
        raise ValueError(f"expected seconds from 0, such as 0.5, got {_shown(text)}. Correct or drop it.")
    return value


def _read_transition(text: str) -> Transition:
    kind, *rest = text.split() or [""]
    seconds = _number(rest[0]) if len(rest) == 1 else math.nan if rest else DEFAULT_CROSSFADE_SECONDS
    if kind == "cut" and not rest:
        return Transition("cut")
    if kind == "crossfade" and 0 < seconds <= LONGEST_SECONDS:
        return Transition("crossfade", seconds)
    raise ValueError(
        f"expected cut or crossfade with its seconds, such as crossfade 0.5, got {_shown(text)}."
    )


def _read_order(text: str) -> tuple[str, ...]:
    return tuple(_read_id(part) for part in _split(text))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> float:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def _shown(text: str) -> str:
    text = on_one_line(text)
    return repr(text if len(text) <= 60 else f"{text[:57]}...") if text else "nothing"


# Two keys for one thing: a shot's own one takes the place of the script's other.
_INSTEAD = (("size", "aspect"), ("seconds", "frames"))
_WANTED = {
    "seconds": "seconds",
    "crossfade": "seconds",
    **dict.fromkeys(("seed", "takes", "frames"), "a whole number"),
}
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("prompt", "title", "marker"), _read_text),
    **dict.fromkeys(("model", "sound", "picture"), _read_name),
    "id": _read_id,
    "continues": _read_id,
    "seconds": _read_seconds,
    "frames": lambda text: _read_whole(text, 1, MAX_FRAMES + 1),
    "size": _read_size,
    "aspect": _read_aspect,
    "seed": lambda text: _read_whole(text, 0, SEED_LIMIT),
    "takes": lambda text: _read_whole(text, 1, MAX_TAKES + 1),
    "pick": _read_takes,
    "keep": _read_keep,
    "trim": _read_trim,
    "transition": _read_transition,
    "order": _read_order,
    "crossfade": _read_crossfade,
    "titles": _read_yes,
}
