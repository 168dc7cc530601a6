"""Make the tables of all keys of configs, docs/keys.md, from the sections' own types, defaults and docstrings.

python -m tools.config_tables           # rewrites what stands between the markers of each table
python -m tools.config_tables --check   # writes nothing, and fails where a table is out of date
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from swd_video.config import Section
from swd_video.data.sections import SynthesizeConfig
from swd_video.evaluation.config import EvaluateConfig
from swd_video.evaluation.report import check_markers, replace_between_markers
from swd_video.training.config import DistillConfig
from swd_video.training.decoder_config import DecoderConfig

DOCUMENT = Path("docs/keys.md")
# By the name of the markers.
TABLES: dict[str, type[Section]] = {
    "keys of decoder": DecoderConfig,
    "keys of distill": DistillConfig,
    "keys of evaluate": EvaluateConfig,
    "keys of synthesize": SynthesizeConfig,
}
_WORDS: Mapping[Any, str] = {str: "text", int: "whole number", float: "number", Path: "path", Any: "anything"}
_LIMITS = ((Ge, "ge", "from"), (Gt, "gt", "above"), (Le, "le", "to"), (Lt, "lt", "below"))


@dataclass(frozen=True)
class _Place:
    """Sections that may stand at one place of a config: one, or one for each `kind`."""

    sections: tuple[type[BaseModel], ...]
    in_list: bool
    nullable: bool


def keys_tables(root: type[Section]) -> str:
    """Tables of all keys of a config: one of its own keys, and one for each section of its own.

    A section that stands in a list has `[]` behind its name. Of several sections by `kind`, a key that only some of
    them have says of which. A section that stands in a second place refers to its table at the first.
    """
    tables: dict[str, list[tuple[str, str, str, str]]] = {}
    titles: dict[str, str] = {}
    first: dict[tuple[type[BaseModel], ...], str] = {}

    def open_table(name: str, sections: Sequence[type[BaseModel]]) -> None:
        tables[name] = []
        if (known := first.setdefault(tuple(sections), name)) != name:
            titles[name] = f"The same keys as `{known}`."
        else:
            titles[name] = _shared_doc(sections)
            visit(name, name, sections)

    def visit(
        table: str,
        prefix: str,
        sections: Sequence[type[BaseModel]],
        chosen: FieldInfo | None = None,
        of: str = "",
    ) -> None:
        later = []
        for key, owners in _owners(sections):
            name = f"{prefix}.{key}" if prefix else key
            only = (
                ", ".join(f"`{_kind_of(owner)}`" for owner in owners) if len(owners) < len(sections) else of
            )
            field = owners[0].model_fields[key]
            place = _place(field.annotation)
            if key == "kind":
                tables[table].append((name, *_kinds(sections, field, chosen)))
            elif place is None or place.in_list or place.nullable:
                says = f"({only}) " * bool(only) + _clean(field.description or "")
                tables[table].append((name, _takes(field.annotation, field.metadata), _default(field), says))
            if place is not None and (place.in_list or place.nullable or not prefix):
                later.append((f"{name}[]" if place.in_list else name, place.sections))
            elif place is not None:
                visit(table, name, place.sections, field, only)
        for name, inner in later:
            open_table(name, inner)

    open_table("", [root])
    parts = []
    for name, rows in tables.items():
        title = f"**`{name}`**: {titles[name]}".removesuffix(": ") + "\n\n" if name else ""
        if not rows:
            parts += [title.strip()] if name not in first.values() else []
            continue
        lines = [
            "| " + " | ".join((f"`{key}`", *(_cell(cell) for cell in cells))) + " |" for key, *cells in rows
        ]
        parts.append(title + "\n".join(["| key | takes | default | says |", "|---|---|---|---|", *lines]))
    return "\n\n".join(parts)


def _owners(sections: Sequence[type[BaseModel]]) -> list[tuple[str, list[type[BaseModel]]]]:
    """Keys and the sections that have them; where sections say different things of one key, each for itself."""
    owners: dict[tuple[str, ...], list[type[BaseModel]]] = {}
    for key in dict.fromkeys(key for section in sections for key in section.model_fields):
        for section in sections:
            if (field := section.model_fields.get(key)) is not None:
                means = () if key == "kind" else (str(field.annotation), field.description or "")
                owners.setdefault((key, *means), []).append(section)
    # What chooses the others comes first.
    return [
        (key, having) for (key, *_), having in sorted(owners.items(), key=lambda item: item[0][0] != "kind")
    ]


def _kind_of(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _kinds(
    sections: Sequence[type[BaseModel]], field: FieldInfo, chosen: FieldInfo | None
) -> tuple[str, str, str]:
    """What `kind` takes, its default and what each stands for; `chosen` is the field that holds the section."""
    outside = chosen is not None and any(isinstance(item, WrapValidator) for item in chosen.metadata)
    takes = [f"`{_kind_of(section)}`" for section in sections] + (["`module:Class`"] if outside else [])
    default = "required"
    if chosen is not None and isinstance(chosen.default, BaseModel):
        default = f"`{chosen.default.model_dump()['kind']}`"
    elif len(sections) == 1:
        default = _default(field)
    says = [_clean(chosen.description)] if chosen is not None and chosen.description else []
    says += [f"`{_kind_of(section)}`: {_doc(section)}" for section in sections]
    return ", ".join(takes), default, " ".join(says)


def _shared_doc(sections: Sequence[type[BaseModel]]) -> str:
    if len(sections) == 1:
        return _doc(sections[0])
    shared = next(base for base in sections[0].__mro__ if all(issubclass(one, base) for one in sections))
    return _doc(shared) if shared.__doc__ and shared is not Section else ""


def _doc(section: type[BaseModel]) -> str:
    return _clean((inspect.getdoc(section) or "").split("\n\n")[0])


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without `Annotated`; else the annotation alone."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for member in get_args(annotation) for part in _parts(member))
    return (annotation,)


def _place(annotation: Any) -> _Place | None:
    """The sections that a key holds, if it does; one from outside of the package has no keys that are known."""
    members = _parts(annotation)
    nullable = NoneType in members
    members = tuple(member for member in members if member is not NoneType)
    in_list = len(members) == 1 and get_origin(members[0]) is tuple
    if in_list:
        members = _parts(get_args(members[0])[0])
    if all(isinstance(member, type) and issubclass(member, BaseModel) for member in members):
        known = tuple(member for member in members if not inspect.isabstract(member))
        return _Place(known, in_list, nullable) if known else None
    return None


def _takes(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What may be written there, in words."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _takes(inner, [*metadata, *more])
    members = _parts(annotation)
    words: list[str] = []
    for member in members:
        if member is NoneType:
            word = "`null`"
        elif get_origin(member) is Literal:
            word = ", ".join(f"`{value}`" for value in get_args(member))
        elif get_origin(member) is tuple:
            first, *others = get_args(member)
            many = _plural(_takes(first))
            word = f"list of {many}" if Ellipsis in others else f"{len(others) + 1} {many}"
        elif get_origin(member) is dict:
            word = f"{_plural(_takes(get_args(member)[1]))} by name"
        elif isinstance(member, type) and issubclass(member, BaseModel):
            word = "section"
        elif member is bool:
            word = "`true` or `false`"
        else:
            word = " ".join([_WORDS[member], *_limits(metadata)])
        words.append(word)
    return " or ".join(dict.fromkeys(words))


def _limits(metadata: Sequence[Any]) -> Iterator[str]:
    flat = [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]
    for kind, name, word in _LIMITS:
        for item in flat:
            if isinstance(item, kind):
                limit = getattr(item, name)
                yield f"{word} {int(limit) if limit == int(limit) else limit}"


def _plural(words: str) -> str:
    return re.sub(r"\b(number|text|path|section)\b", r"\1s", words)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, str) and value:
        return f"`{value}`"
    return f"`{json.dumps(_plain(value), ensure_ascii=False)}`"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _standing(path: Path, marker: str) -> str:
    check_markers(path, marker)
    text = path.read_text(encoding="utf-8")
    return text.split(f"<!-- {marker}: begin -->")[1].split(f"<!-- {marker}: end -->")[0].strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the tables, or say which are out of date; 1 where one is."""

    def run(check: bool = False, root: Path = Path()) -> int:
        document, old = root / DOCUMENT, []
        for marker, section in TABLES.items():
            made = keys_tables(section)
            if _standing(document, marker) == made:
                continue
            old.append(marker)
            if not check:
                replace_between_markers(document, marker, made)
                print(f"{document}: {marker}")
        if old and check:
            print(f"{', '.join(old)}: out of date. Run: python -m tools.config_tables", file=sys.stderr)
        return 1 if old and check else 0

    return tyro.cli(run, description=__doc__, args=arguments)


if __name__ == "__main__":
    sys.exit(main())
