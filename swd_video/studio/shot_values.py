"""The keys of a script and what may stand at them, from the texts that files of any form hold."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from swd_video.plain_text import clean_text, on_one_line
from swd_video.studio.script import (
    ASPECT,
    DEFAULT_CROSSFADE_SECONDS,
    MAX_FRAMES,
    MAX_TAKES,
    SEED_LIMIT,
    FilmSettings,
    Shot,
    Transition,
    id_problem,
)
from swd_video.yaml_source import SourceError

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
        SourceError: made by `fail`, for the first text that cannot stand at its key.
    """
    values = {}
    for key, (text, line) in written.items():
        try:
            values[key] = Value(_READERS[key](text), line)
        except ValueError as error:
            raise fail(line, key, str(error)) from None
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
    lines = {key: value.line for key, value in values.items()}

    def get(key: str, otherwise: Any = None) -> Any:
        return values[key].value if key in values else otherwise

    picture = get("picture")
    return Shot(
        id=get("id", shot_id),
        prompt=get("prompt"),
        seconds=get("seconds"),
        seed=get("seed"),
        takes=get("takes", 1),
        line=line,
        prompt_line=lines.get("prompt", line),
        seconds_line=lines.get("seconds", line),
        picture=None if picture is None else folder / Path(picture).expanduser(),
        picture_line=lines.get("picture", line),
        lines=lines,
        **{key: values[key].value for key in _FURTHER if key in values},
    )


def overridden(values: Mapping[str, Value], by: Mapping[str, Value]) -> dict[str, Value]:
    """Values, and others that take their place; a size takes that of an aspect too, and seconds that of frames."""
    replaced = {other for pair in _INSTEAD for other in pair if set(pair) & set(by)}
    return {key: value for key, value in values.items() if key not in replaced} | dict(by)


def make_film(values: Mapping[str, Value], line: int, folder: Path) -> FilmSettings:
    """The film's settings of their values."""
    settings = {key: value.value for key, value in values.items()}
    if "sound" in settings:
        settings["sound"] = folder / Path(settings["sound"]).expanduser()
    return FilmSettings(**settings, line=line, lines={key: value.line for key, value in values.items()})


def wanted(key: str) -> str:
    """What stands at a key, for messages."""
    return _WANTED.get(key, "text")


def read_text(text: str) -> str:
    """A text with its white space folded.

    Raises:
        ValueError: if it is empty, or holds characters that no tokenizer takes.
    """
    cleaned = " ".join(clean_text(text).split())
    if not cleaned:
        raise ValueError("expected text, got an empty one. Write something, or drop the key.")
    return cleaned


def read_id(text: str) -> str:
    """A shot's name. Raises `ValueError` if it cannot name a file."""
    shot_id = read_text(text)
    if problem := id_problem(shot_id):
        raise ValueError(problem)
    return shot_id


def read_seconds(text: str) -> float:
    """A length. Raises `ValueError` if it is none."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise ValueError(
            f"expected seconds above 0, such as 2.5, got {_shown(text)}. Drop the key to get the model's native "
            "length."
        )
    return value


def read_whole(text: str, minimum: int, limit: int) -> int:
    """A whole number from `minimum` to below `limit`. Raises `ValueError` if it is none."""
    if not _WHOLE_NUMBER.fullmatch(text) or not minimum <= int(text) < limit:
        raise ValueError(
            f"expected a whole number from {minimum} to {limit - 1} in plain digits, got {_shown(text)}. Correct or "
            "drop it."
        )
    return int(text)


def read_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of "832x480", which has the width first, as people say it.

    Raises:
        ValueError: if it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"expected WIDTHxHEIGHT in pixels, such as 832x480, got {_shown(text)}. Correct or drop it."
        )
    return int(found[2]), int(found[1])


def read_aspect(text: str) -> str:
    """The shape of a picture, "16:9", width first. Raises `ValueError` if it is none."""
    found = ASPECT.fullmatch(text.strip())
    if not found:
        raise ValueError(f"expected WIDTH:HEIGHT, such as 16:9, got {_shown(text)}. Correct or drop it.")
    return f"{found[1]}:{found[2]}"


def read_takes(text: str) -> tuple[int, ...]:
    """Numbers of takes, in the order given. Raises `ValueError` if they are none."""
    numbers = tuple(read_whole(part, 1, MAX_TAKES + 1) for part in split(text))
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"expected numbers of takes, each once, such as 3 or 1, 3, got {_shown(text)}.")
    return numbers


def read_keep(text: str) -> bool | tuple[int, ...]:
    """Which takes are kept as they are: all, none, or those numbers. Raises `ValueError` if it is none of these."""
    word = text.strip().lower()
    if word in (*_YES, *_NO):
        return word in _YES
    return read_takes(text)


def read_yes(text: str) -> bool:
    """Yes or no. Raises `ValueError` if it is neither."""
    word = text.strip().lower()
    if word not in (*_YES, *_NO):
        raise ValueError(f"expected true or false, got {_shown(text)}. Correct or drop it.")
    return word in _YES


def read_trim(text: str) -> tuple[float, float]:
    """Seconds cut off at the start and at the end. Raises `ValueError` if they are none."""
    numbers = tuple(_number(part) for part in split(text))
    if len(numbers) != 2 or not all(0 <= number < math.inf for number in numbers):
        raise ValueError(
            f"expected the seconds to cut off at the start and at the end, such as 0.2, 0.5, got {_shown(text)}."
        )
    return numbers[0], numbers[1]


def read_crossfade(text: str) -> float:
    """Seconds of a crossfade, from 0. Raises `ValueError` if they are none."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"expected seconds from 0, such as 0.5, got {_shown(text)}. Correct or drop it.")
    return value


def read_transition(text: str) -> Transition:
    """How a film comes into a shot. Raises `ValueError` if it is no such way."""
    kind, *rest = text.split() or [""]
    seconds = _number(rest[0]) if len(rest) == 1 else math.nan if rest else DEFAULT_CROSSFADE_SECONDS
    if kind == "cut" and not rest:
        return Transition("cut")
    if kind == "crossfade" and 0 < seconds < math.inf:
        return Transition("crossfade", seconds)
    raise ValueError(
        f"expected cut or crossfade with its seconds, such as crossfade 0.5, got {_shown(text)}."
    )


def read_order(text: str) -> tuple[str, ...]:
    """Ids of shots. Raises `ValueError` if one cannot be an id."""
    return tuple(read_id(part) for part in split(text))


def split(text: str) -> list[str]:
    """The parts of a text between its commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> float:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def _shown(text: str) -> str:
    text = on_one_line(text)
    return repr(text if len(text) <= 60 else f"{text[:57]}...") if text else "nothing"


# Two keys for one thing: a shot's own one takes the place of the script's other.
_INSTEAD = (("size", "aspect"), ("seconds", "frames"))
_FURTHER = (
    "frames", "size", "aspect", "pick", "keep", "continues", "title", "trim", "transition", "marker",
)  # fmt: skip
_WANTED = {
    "seconds": "seconds",
    "crossfade": "seconds",
    **dict.fromkeys(("seed", "takes", "frames"), "a whole number"),
}
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("prompt", "title", "model", "marker", "sound", "picture"), read_text),
    "id": read_id,
    "continues": read_id,
    "seconds": read_seconds,
    "frames": lambda text: read_whole(text, 1, MAX_FRAMES + 1),
    "size": read_size,
    "aspect": read_aspect,
    "seed": lambda text: read_whole(text, 0, SEED_LIMIT),
    "takes": lambda text: read_whole(text, 1, MAX_TAKES + 1),
    "pick": read_takes,
    "keep": read_keep,
    "trim": read_trim,
    "transition": read_transition,
    "order": read_order,
    "crossfade": read_crossfade,
    "titles": read_yes,
}
