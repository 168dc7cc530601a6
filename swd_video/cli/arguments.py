"""The words after a command: its own flags, and those that are keys of its config."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_origin

import tyro

from swd_video.cli.commands import COMMANDS
from swd_video.files import with_homes

JsonFlag: TypeAlias = Annotated[
    bool, tyro.conf.arg(name="json", help_behavior_hint="(mistakes are lines on stderr all the same)")
]
"""Of a field `json_output`: the bare name is a module's."""

ScriptFile: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCRIPT")]
OptionalScriptFile: TypeAlias = Annotated[
    Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[SCRIPT]")
]
ConfigFile: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
StudentName: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDENT")]

_Arguments = TypeVar("_Arguments")


def read_arguments(
    kind: type[_Arguments], command: str, argv: Sequence[str], description: str | None = None
) -> _Arguments:
    """A command's arguments; a flag that takes several values may be given several times.

    Its `--help` begins with the description; without one with what `COMMANDS` says.

    Raises:
        ValueError: for a flag with an empty value, where that says nothing, or with none where it takes several.
    """
    _refuse_empty(argv, kind)
    arguments = tyro.cli(
        kind,
        prog=f"swd-video {command}",
        description=description or COMMANDS[command],
        args=_together(argv, kind),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    # As in `--out=~/clips`, where no shell does it.
    homes = {one.name: with_homes(getattr(arguments, one.name)) for one in fields(cast(Any, arguments))}
    return cast(_Arguments, replace(cast(Any, arguments), **homes))


def read_arguments_and_keys(
    kind: type[_Arguments], command: str, argv: Sequence[str], description: str
) -> tuple[_Arguments, dict[str, str]]:
    """A command's arguments, and every other flag as a key of its config with its text, for `load_config_as`.

    Raises:
        ConfigError: for a flag without a value.
    """
    from swd_video.config import parse_overrides

    own, keys = _split(list(argv), kind)
    arguments = read_arguments(kind, command, own, description)
    return arguments, parse_overrides(keys)


def _refuse_empty(argv: Sequence[str], kind: Any) -> None:
    """As of a variable of the shell that is not set: `--out "$OUT"` would be the folder one is in."""
    may_be = {f"--{field.name.replace('_', '-')}" for field in fields(kind) if field.default == ""}
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        flag, equals, value = word.partition("=")
        is_empty = word.startswith("--") and (value if equals else following) == ""
        if is_empty and flag.replace("_", "-") not in may_be:
            raise _empty(flag)


def _empty(flag: str) -> ValueError:
    return ValueError(f"{flag}: got an empty text. Give a value, or leave the flag out.")


def _together(argv: Sequence[str], kind: Any) -> list[str]:
    """The words, with all values of a flag behind its last mention: tyro would take only those."""
    several = {
        f"--{field.name.replace('_', '-')}" for field in fields(kind) if get_origin(field.type) is tuple
    }
    rest: list[str] = []
    mentions: list[tuple[str, list[str]]] = []
    into = rest
    for word in argv:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if not word.startswith("--") and word != "-h":
            into.append(word)
        elif flag in several:
            mentions.append((flag, [value] if equals else []))
            into = rest if equals else mentions[-1][1]
        else:
            rest.append(word)
            into = rest
    together: dict[str, list[str]] = {}
    for flag, values in mentions:
        if not values and not {"-h", "--help"} & set(rest):
            raise ValueError(f"{flag}: expected at least one value. Give one, or leave the flag out.")
        if "" in values:
            raise _empty(flag)
        together.setdefault(flag, []).extend(values)
    return [*rest, *(word for flag, values in together.items() if values for word in (flag, *values))]


def _split(words: list[str], kind: Any) -> tuple[list[str], list[str]]:
    # A field `json_output` is `--json`.
    names = {field.name.removesuffix("_output").replace("_", "-") for field in fields(kind)}
    own_flags = {"--help", "-h", *(f"--{name}" for name in names)}
    own: list[str] = []
    keys: list[str] = []
    while words:
        word = words.pop(0)
        flag, equals, _ = word.partition("=")
        if not flag.startswith("--") or flag.replace("_", "-") in own_flags:
            own.append(word)
            continue
        keys.append(word)
        if not equals and words:
            keys.append(words.pop(0))
    return own, keys
