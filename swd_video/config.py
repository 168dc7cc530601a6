"""YAML files to configs: `extends:`, overrides, and errors that name the file, the line and the key."""

import difflib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError, WrapValidator, field_validator

from swd_video.extensions import find
from swd_video.files import with_homes
from swd_video.plain_text import first_line
from swd_video.yaml_source import KeyPath, SourceError, dotted, dump_values, parse_value, read_source

_SchemaT = TypeVar("_SchemaT", bound=BaseModel)


_KNOWN = "; known here: "
# What pydantic calls by the names of Python.
_KEYS = "expected keys and values, such as {key: value}"
_IN_YAML = {
    "tuple_type": "expected a list, such as [first, second]",
    "model_type": _KEYS,
    "model_attributes_type": _KEYS,
    "dict_type": _KEYS,
    "path_type": "expected a path",
}


class Section(BaseModel):
    """A part of a config: immutable, an unknown key is an error, and `~` in a path is a home."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _find_homes(cls, value: Any) -> Any:
        return with_homes(value)


def or_from_outside(group: str, base: type[Section]) -> WrapValidator:
    """Lets a union of sections by `kind` take one more: a section from outside, see `extensions`.

    `Annotated[Annotated[A | B, Field(discriminator="kind")], or_from_outside("encoders", EncoderSection)]`. A section
    from outside has `kind: str`, so that the saved config names it.
    """

    def choose(value: Any, handler: Callable[[Any], Any]) -> Any:
        if isinstance(value, base):
            return value
        kind = value.get("kind") if isinstance(value, dict) else None
        section = find(group, kind) if isinstance(kind, str) else None
        if section is None:
            return handler(value)
        if not (isinstance(section, type) and issubclass(section, base)):
            raise ValueError(f"kind: {kind} is no {base.__name__}; derive it from that class")
        if missing := ", ".join(sorted(getattr(section, "__abstractmethods__", ()))):
            raise ValueError(f"kind: {kind} lacks {missing}; define what {base.__name__} leaves open")
        return section.model_validate(value)

    return WrapValidator(choose)


class ConfigError(SourceError):
    """A config that cannot be used; the message is a line for each mistake, for the person who wrote it."""


@dataclass
class _Source:
    """Values merged so far, and where each of them was written, for error messages."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]


def load_config_as(
    schema: type[_SchemaT], path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> _SchemaT:
    """Read a YAML config, the files it extends, and overrides on top.

    `extends: other.yaml` (relative to the file that says so) takes the other file's values first:
    mappings are merged key by key, everything else, lists included, is replaced. Another `kind` than below,
    in a file or an override, leaves out the keys that only the former kind has, and says so on stderr.

    Args:
        schema: what the file describes.
        path: the YAML file.
        overrides: dotted key to value, for example `{"train.lr": 1e-4}`. Text is read as YAML, as that of the command
            line is. A mapping is merged like one of a file.

    Raises:
        ConfigError: naming file, line and key, or the override, and what was expected there.
    """
    source = _read(Path(path), (), schema)
    # Kinds first, whatever the order of the words: keys given beside a kind belong to it.
    for key, text in sorted((overrides or {}).items(), key=lambda item: not item[0].endswith(".kind")):
        _override(source, key, text, schema)
    try:
        config = schema.model_validate(source.values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, Path(path), schema)) from None
    lines = [
        _line(source, at, Path(path), f"expected a number, got {str(truth).lower()}")
        for at, truth in _truths_as_numbers(source.values, config, ())
    ]
    if lines:
        raise ConfigError("\n".join(lines))
    return config


def load_saved(schema: type[_SchemaT], path: Path) -> _SchemaT:
    """Read the config that a command left in its folder.

    Raises:
        ConfigError: if it is another command's.
    """
    try:
        return load_config_as(schema, path)
    except ConfigError as error:
        raise ConfigError(
            f"{path.parent}: holds the {path.name} of another command or version; choose another --out "
            f"({first_line(error)})"
        ) from None


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Command-line words such as `--train.lr 1e-4` or `--train.lr=1e-4` to dotted keys and YAML text.

    Raises:
        ConfigError: for a word that is not a flag, or a flag without a value.
    """
    overrides: dict[str, str] = {}
    words = list(arguments)
    while words:
        flag = words.pop(0)
        if not flag.startswith("--") or len(flag) == 2:
            raise ConfigError(f"{flag!r}: expected an override such as --train.lr 1e-4")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"--{key}: no value; write --{key} VALUE")
            value = words.pop(0)
        overrides[key.replace("-", "_")] = value
    return overrides


def dump_config(config: BaseModel) -> str:
    """The whole config, defaults included, as YAML that `load_config_as` reads back to an equal config."""
    return dump_values(config.model_dump(mode="json", serialize_as_any=True))


def flatten(config: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key to value, lists whole, of a config or of what its file holds."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    values = (
        config.model_dump(mode="json", serialize_as_any=True) if isinstance(config, BaseModel) else config
    )
    visit("", values)
    return flat


def _read(path: Path, seen: tuple[Path, ...], schema: type[BaseModel]) -> _Source:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(map(str, seen))}; break the circle")
    values, origins = read_source(path, "config file").values()
    if not isinstance(values, dict):
        first = next(iter(schema.model_fields))
        example = "" if first == "root" else f" such as `{first}:`"
        raise ConfigError(f"{path}: expected keys{example} at the top of the file")
    parent = values.pop("extends", None)
    if parent is None:
        return _Source(values, origins)
    if not isinstance(parent, str):
        raise ConfigError(
            f"{origins[('extends',)]}: extends: expected the path of one YAML file, got {parent!r}"
        )
    parent_path = path.parent / parent
    if not parent_path.is_file():
        raise ConfigError(f"{origins[('extends',)]}: extends: no file {parent_path}")
    base = _read(parent_path, (*seen, path.resolve()), schema)
    merged = _merge(base.values, values, [schema], (), origins | base.origins)
    return _Source(merged, base.origins | origins)


def _merge(
    base: dict[str, Any],
    top: dict[str, Any],
    sections: Sequence[type[BaseModel]],
    at: KeyPath,
    origins: Mapping[KeyPath, str],
) -> dict[str, Any]:
    merged = _of_kind(base, top.get("kind"), sections, at, origins)
    for key, value in top.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value, _below(sections, key), (*at, key), origins)
        merged[key] = value
    return merged


def _of_kind(
    values: dict[str, Any],
    kind: Any,
    sections: Sequence[type[BaseModel]],
    at: KeyPath,
    origins: Mapping[KeyPath, str],
) -> dict[str, Any]:
    """A copy of the values without the keys that another kind of section has no use for."""
    chosen = [section for section in sections if kind is not None and _kind(section) == kind]
    if not chosen or values.get("kind", kind) == kind:
        return dict(values)
    known = {key for section in sections for key in section.model_fields}
    foreign = [key for key in values if key in known and key not in chosen[0].model_fields]
    if foreign:
        names = ", ".join(f"{dotted((*at, key))} ({origins.get((*at, key), 'default')})" for key in foreign)
        print(
            f"note: {dotted((*at, 'kind'))} is {kind} now: left out {names}, which {values['kind']} has.",
            file=sys.stderr,
        )
    return {key: value for key, value in values.items() if key not in foreign}


def _override(source: _Source, key: str, text: Any, schema: type[BaseModel]) -> None:
    try:
        value = parse_value(text) if isinstance(text, str) else text
    except yaml.YAMLError:
        raise ConfigError(f"--{key}: {text!r} is not a YAML value; quote it") from None
    _set(source, tuple(key.split(".")), value, schema, key)


def _set(source: _Source, at: KeyPath, value: Any, schema: type[BaseModel], flag: str) -> None:
    here: dict[Any, Any] = source.values
    sections: Sequence[type[BaseModel]] = [schema]
    for depth, part in enumerate(at[:-1], start=1):
        inner = here.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--{flag}: {dotted(at[:depth])} has no keys below it")
        sections = _below(sections, str(part))
        if at[depth:] == ("kind",):
            inner = _of_kind(inner, value, sections, at[:depth], source.origins)
        here[part] = here = dict(inner)
    # Merged, as by a file that extends another.
    if isinstance(value, dict) and isinstance(here.get(at[-1]), dict):
        for inner_key in sorted(value, key=lambda inner_key: inner_key != "kind"):
            _set(source, (*at, inner_key), value[inner_key], schema, flag)
        return
    here[at[-1]] = value
    source.origins = {k: v for k, v in source.origins.items() if k[: len(at)] != at} | {at: f"--{flag}"}


def _truths_as_numbers(written: Any, read: Any, at: KeyPath) -> Iterator[tuple[KeyPath, bool]]:
    """Where `true` and `false` were read as 1 and 0, which pydantic does and nobody means."""
    read = read.root if isinstance(read, RootModel) else read
    if read is None or read is written:
        return
    if isinstance(written, dict):
        for key, value in written.items():
            inner = read.get(key) if isinstance(read, dict) else getattr(read, str(key), None)
            yield from _truths_as_numbers(value, inner, (*at, key))
    elif isinstance(written, list) and isinstance(read, tuple):
        for index, (value, inner) in enumerate(zip(written, read, strict=False)):
            yield from _truths_as_numbers(value, inner, (*at, index))
    elif isinstance(written, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        yield at, written


def _explain(error: ValidationError, source: _Source, path: Path, schema: type[BaseModel]) -> str:
    """A line for each mistake; unknown keys first, since one is often what is missing, mistyped."""
    problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    lines: dict[KeyPath, str] = {}
    for problem in problems:
        at = _without_kinds(problem["loc"], source.values)
        if problem["type"] == "missing":
            beside = [str(key) for *above, key in lines if tuple(above) == at[:-1]]
            if not difflib.get_close_matches(str(at[-1]), beside, n=1):
                lines[at] = f"{_origin(source, at[:-1], path)}: {dotted(at)}: missing; add it"
            continue
        place = _written(at, source.values)
        line = _explain_one(problem, place, source, path, schema)
        if place in lines:  # what may be one of several things is refused as each of them
            line = f"{lines[place].rpartition(', got ')[0]}, or {line.rpartition(': ')[2]}"
        lines[place] = line
    return "\n".join(_listed_once(list(lines.values())))


def _listed_once(lines: list[str]) -> list[str]:
    """Lines, of which a list of known keys stands in the first one alone."""
    heads, lists = zip(*(line.partition(_KNOWN)[::2] for line in lines), strict=True)
    return [
        head if known in lists[:number] else line
        for number, (line, head, known) in enumerate(zip(lines, heads, lists, strict=True))
    ]


def _explain_one(problem: Any, at: KeyPath, source: _Source, path: Path, schema: type[BaseModel]) -> str:
    if problem["type"] == "extra_forbidden":
        reason = f"unknown key{_suggestion(at, source.values, schema)}"
    elif problem["type"] == "union_tag_not_found":
        at, reason = (*at, "kind"), "missing; add it"
    elif problem["type"] == "union_tag_invalid":
        at = (*at, "kind")
        reason = f"got {problem['ctx']['tag']!r}, expected one of {problem['ctx']['expected_tags']}"
    elif problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        if at in ((), ("schedule",)):  # These messages name their keys themselves.
            return f"{_origin(source, at, path)}: {reason}"
    else:
        expected = _IN_YAML.get(problem["type"]) or f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
        reason = f"{expected}, got {problem['input']!r}"
    return _line(source, at, path, reason)


def _written(at: KeyPath, values: Any) -> KeyPath:
    """As much of a location as the config holds: pydantic goes on with what a value might have been."""
    for depth, part in enumerate(at):
        if isinstance(part, str) and not (isinstance(values, dict) and part in values):
            return at[:depth]
        try:
            values = values[part]
        except (IndexError, TypeError):  # one that stands for a list of one
            return at
    return at


def _without_kinds(location: Sequence[str | int], values: Any) -> KeyPath:
    """Drop the tags that pydantic adds to locations inside a union by `kind`."""
    kept: list[str | int] = []
    here = values
    for part in location:
        if isinstance(here, dict) and here.get("kind") == part and part not in here:
            continue
        kept.append(part)
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = None
    return tuple(kept)


def _line(source: _Source, at: KeyPath, path: Path, reason: str) -> str:
    """A mistake with its place: the file's line and the key, or the flag, which is the key."""
    key = dotted(at)
    return f"{f'{_origin(source, at, path)}: {key}'.removeprefix(f'--{key}: ')}: {reason}"


def _origin(source: _Source, at: KeyPath, path: Path) -> str:
    for length in range(len(at), 0, -1):
        if at[:length] in source.origins:
            return source.origins[at[:length]]
    return str(path)


def _suggestion(at: KeyPath, values: dict[str, Any], schema: type[BaseModel]) -> str:
    every_kind, sections = _sections_at(at[:-1], values, schema)
    owners = {_kind(section) for section in every_kind if at[-1] in section.model_fields}
    if owners:
        named = " and ".join(sorted(str(owner) for owner in owners - {None}))
        whose, cure = (named, "set kind") if named else ("one without kind", "leave kind out")
        return f" of kind {_kind(sections[0])}: it belongs to {whose}; leave it out, or {cure}"
    known = sorted({key for section in sections for key in section.model_fields})
    close = difflib.get_close_matches(str(at[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"{_KNOWN}{', '.join(known)}" if known else ""


def _sections_at(
    at: KeyPath, values: Any, schema: type[BaseModel]
) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    """What a place of the config may hold: sections of every kind, and those of the kind that it says."""
    sections = every_kind = [schema]
    here = values
    for part in at:
        here = here[part]
        if isinstance(part, str):
            every_kind = _below(sections, part)
        kind = here.get("kind") if isinstance(here, dict) else None
        sections = [section for section in every_kind if kind is None or _kind(section) == kind]
        if not sections and isinstance(kind, str) and (outside := find("", kind)) is not None:
            sections = [outside] if isinstance(outside, type) and issubclass(outside, BaseModel) else []
    return every_kind, sections


def _below(sections: Sequence[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    # Below a mapping from any name to a section there is one field, which pydantic calls `root`.
    names = [key if key in section.model_fields else "root" for section in sections]
    fields = [section.model_fields.get(name) for name, section in zip(names, sections, strict=True)]
    return [inner for field in fields if field is not None for inner in _sections_in(field.annotation)]


def _kind(section: type[BaseModel]) -> Any:
    return section.model_fields["kind"].default if "kind" in section.model_fields else None


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
