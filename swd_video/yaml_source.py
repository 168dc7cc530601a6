"""YAML that people write by hand, read with the line of every value: the one reader of configs, scripts and GPU files.

Plain text becomes a number, `true`, `false` or `null` where it is one to YAML 1.2, and stays text otherwise: to YAML
1.1 `1:30` is 90, `010` is 8, `no` is false and `1e-4` is text, which nobody means here.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as StringMapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from swd_video.plain_text import as_key, did_you_mean, on_one_line, read_text

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys, and numbers of list items from 0."""

_EntryT = TypeVar("_EntryT")
_ReadT = TypeVar("_ReadT")

NOTHING: StringMapping[str, str] = MappingProxyType({})

_QUOTES = "Put the text in quotes."
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
# What plain text is taken for; other tags were written.
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
# What PyYAML says where a text holds what is YAML to it.
_TEXT_PROBLEMS = (
    "mapping values are not allowed",
    "sequence entries are not allowed",
    "mapping keys are not allowed",
    "cannot start any token",
    "found undefined alias",
    "expected alphabetic or numeric character",
    "expected <block end>, but found '<scalar>'",
    "expected ',' or",
)


class SourceError(ValueError):
    """A file that cannot be used as written; the message, a line for each mistake, names file, line, key and cure."""


class _Loader(yaml.SafeLoader):
    """Types of plain text as YAML 1.2 has them."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as PyYAML declares it


_FLOAT = re.compile(
    r"^(?:[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", _FLOAT.pattern, list("-+.0123456789")),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first)


def read_each(read: Callable[[_EntryT], _ReadT], entries: Iterable[_EntryT]) -> tuple[_ReadT, ...]:
    """What every entry is read as, whether or not others can be read.

    Raises:
        SourceError: for all that cannot.
    """
    found, problems = [], []
    for entry in entries:
        try:
            found.append(read(entry))
        except SourceError as error:
            problems.append(str(error))
    if problems:
        raise SourceError("\n".join(problems))
    return tuple(found)


def read_file(path: Path, noun: str) -> str:
    """The text of a file.

    Raises:
        SourceError: if it cannot be read.
    """
    try:
        return read_text(path)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such {noun}. Check the path.") from None
    except IsADirectoryError:
        raise SourceError(f"{path}: is a folder. Name the {noun}'s file.") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None


def read_source(path: Path, noun: str) -> "Source":
    """The YAML file at a path; see `read_file`. Raises `SourceError` also if it is not YAML."""
    return Source(read_file(path, noun), path)


class _Dumper(yaml.SafeDumper):
    """Puts a text in quotes where `_Loader` or YAML 1.1 would take it for something else."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def dump_values(values: Any) -> str:
    """YAML that is read back to the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_value(text: str) -> Any:
    """What a single text is worth, as on a command line: YAML, but that `#` in plain text begins no comment.

    Raises:
        yaml.YAMLError: if it is not YAML.
    """
    node = _Loader(text).get_single_node()
    words = text.strip()
    plain = node is None or (isinstance(node, yaml.ScalarNode) and node.style is None)
    if plain and "#" in words and (node is None or node.value != words):
        return words
    return yaml.load(text, _Loader)


class Source:
    """The text of a YAML file as a tree of nodes.

    Raises:
        SourceError: if it is not YAML.

    Attributes:
        root: the top node; None if the file is empty.
        warnings: what was dropped though it may have been meant, as `file:line: key: ...`.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        self.text = text
        self.warnings: list[str] = []
        try:
            self.root: yaml.Node | None = _Loader(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            raise self._not_yaml(error) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            character = on_one_line(f"U+{error.character:04X}")
            raise SourceError(
                f"{path}:{line}: not valid YAML: a character that no text may hold, {character}. Delete it."
            ) from None
        except (RecursionError, yaml.YAMLError, ValueError) as error:  # ValueError: an escape beyond Unicode
            reason = (
                "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
            )
            raise SourceError(f"{path}: not valid YAML: {reason}.") from None

    def values(self) -> tuple[Any, dict[KeyPath, str]]:
        """What the file holds, its keys as texts, and for every value of it `file:line`.

        Raises:
            SourceError: if a key is written twice.
        """
        origins: dict[KeyPath, str] = {}
        if self.root is None:
            return None, origins
        self._note_origins(self.root, (), origins, set())
        try:
            return _Loader("").construct_document(self.root), origins
        except yaml.MarkedYAMLError as error:
            raise self._not_yaml(error) from None

    def _note_origins(
        self, node: yaml.Node, at: KeyPath, origins: dict[KeyPath, str], seen: set[int]
    ) -> None:
        origins.setdefault(at, f"{self.path}:{node.start_mark.line + 1}")
        if id(node) in seen:  # anchors can make a circle, or a tree with more branches than memory holds
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._note_origins(item, (*at, index), origins, seen)
        if isinstance(node, yaml.MappingNode):
            for name_node, value_node in node.value:
                key = (*at, str(name_node.value))
                here = f"{self.path}:{name_node.start_mark.line + 1}"
                if key in origins:
                    raise SourceError(
                        f"{here}: {dotted(key)}: written twice, first at {origins[key]}. Keep one."
                    )
                origins[key] = here
                if isinstance(name_node, yaml.ScalarNode) and name_node.tag != _MERGE:
                    name_node.tag = "tag:yaml.org,2002:str"
                self._note_origins(value_node, key, origins, seen)

    def _not_yaml(self, error: yaml.MarkedYAMLError) -> SourceError:
        open_quote = error.context == "while scanning a quoted scalar" and "end of stream" in str(
            error.problem
        )
        open_quote = open_quote or "document separator" in str(error.problem)
        mark = error.context_mark if open_quote else error.problem_mark or error.context_mark
        where = f"{self.path}:{mark.line + 1}" if mark else str(self.path)
        problem = "a quote that opens here is not closed" if open_quote else on_one_line(str(error.problem))
        cure = "Check indentation and quotes."
        if any(words in problem for words in _TEXT_PROBLEMS):
            cure = "If it is a text that holds `: `, ` #` or another sign of YAML, put it in quotes."
        if r"'\t'" in problem:
            cure = "Indent with blanks instead of tabs."
        return SourceError(f"{where}: not valid YAML: {problem}. {cure}")


class Mapping:
    """One YAML mapping with typed access; every error carries file, line and dotted key.

    Args:
        source: where it stands.
        key: its dotted key, empty for the whole file.
        node: its node; None for a mapping that is not there.
        known: the keys that it may have; at the top keys that begin with `x-` may be added, to hold anchors.
        refused: keys that people may expect here, and why there are none.

    Raises:
        SourceError: if it is no mapping, or has other keys or one twice.
    """

    def __init__(
        self,
        source: Source,
        key: str,
        node: yaml.Node | None,
        known: tuple[str, ...],
        refused: StringMapping[str, str] = NOTHING,
    ) -> None:
        self._source, self._key, self._node = source, key, node
        self._values: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            keys = ", ".join(f"`{name}:`" for name in known)
            problem = f"expected a mapping with the keys {keys}, got {describe(node)}."
            raise self.fail(node, key or "script", problem)
        for name_node, value_node in self._pairs(node):
            name = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else describe(name_node)
            if not key and name.startswith("x-"):
                continue
            if name not in known:
                reason = refused.get(as_key(name))
                problem = f"{reason}." if reason else _unknown_key(name, known)
                raise self.fail(name_node, self._dotted(on_one_line(name)), problem)
            if name in self._values:
                line = self._values[name][0].start_mark.line + 1
                raise self.fail(
                    name_node, self._dotted(name), f"given twice, first on line {line}. Keep one."
                )
            self._values[name] = (name_node, value_node)
        for merged in self._merged(node):
            for name_node, value_node in merged.value:
                name = str(name_node.value)
                if name in known:
                    self._values.setdefault(name, (name_node, value_node))

    def error(self, name: str, problem: str) -> SourceError:
        """An error about the value of a key."""
        return self.fail(self._values[name][1], self._dotted(name), problem)

    def missing(self, name: str, wanted: str) -> SourceError:
        """An error about a key that is not there."""
        return SourceError(
            f"{self._source.path}:{self.line()}: {self._dotted(name)}: missing. Add `{name}:` with {wanted}."
        )

    def line(self, name: str | None = None) -> int:
        """Line of a key's value, or of the mapping."""
        if name in self._values:
            return int(self._values[name][1].start_mark.line) + 1
        return int(self._node.start_mark.line) + 1 if self._node is not None else 1

    def has(self, name: str) -> bool:
        """Whether a key is given."""
        return name in self._values

    def node(self, name: str) -> yaml.Node | None:
        """What a key holds."""
        return self._values[name][1] if name in self._values else None

    def written(self, name: str, wanted: str, *, many: bool, prose: bool) -> str:
        """What stands at a key that is given, as it is written: numbers, dates and `yes` are texts too.

        Args:
            name: the key.
            wanted: what stands there, for messages; behind and before a text nothing may be dropped.
            many: whether it may be a list; its items are joined by commas.
            prose: whether a `#` behind it may be meant as text.
        """
        node, key = self._values[name][1], self._dotted(name)
        if many and isinstance(node, yaml.SequenceNode):
            return ", ".join(self.text_of(item, key, wanted) for item in node.value)
        return self.text_of(node, key, wanted, prose=prose)

    def text_of(self, node: yaml.Node, key: str, wanted: str = "text", *, prose: bool = False) -> str:
        """What a node holds; see `written`."""
        scalar = self._scalar(node, key, wanted)
        if wanted == "text":
            self._check_nothing_eaten(scalar, key, prose)
        return str(scalar.value)

    def _scalar(self, node: yaml.Node, key: str, wanted: str) -> yaml.ScalarNode:
        if not isinstance(node, yaml.ScalarNode):
            raise self.fail(node, key, f"expected {wanted}, got {describe(node)}.")
        if node.tag not in _PLAIN_TAGS:
            raise self.fail(node, key, f"begins with `!`, which is a tag to YAML. {_QUOTES}")
        if node.tag == _NULL:
            raise self.fail(
                node, key, f"expected {wanted}, got {describe(node)}. Write something, or drop the key."
            )
        return node

    def _check_nothing_eaten(self, node: yaml.ScalarNode, key: str, prose: bool) -> None:
        """Refuse or tell what YAML takes out of a plain text: an anchor before it, a comment behind it."""
        if node.style is not None:
            return
        source = self._source.text
        anchor = re.match(r"&(\S+)", source[node.start_mark.index : node.end_mark.index])
        if anchor and f"*{anchor[1]}" not in source:
            raise self.fail(
                node, key, f"begins with `&`, so that {anchor[0]!r} is an anchor to YAML. {_QUOTES}"
            )
        if not prose:
            return
        end = source.find("\n", node.end_mark.index)  # not all that follows: a long text has many nodes
        rest = source[node.end_mark.index : None if end < 0 else end].strip()
        if not rest.startswith("#"):
            return
        shown = rest if len(rest) <= 40 else f"{rest[:37]}..."
        if re.match(r"#+\w", rest):
            raise self.fail(node, key, f"{shown!r} is a comment to YAML, and would be dropped. {_QUOTES}")
        self._source.warnings.append(
            str(
                self.fail(
                    node, key, f"{shown!r} is a comment to YAML. If it belongs to the text, put it in quotes."
                )
            )
        )

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        return ((name, value) for name, value in node.value if name.tag != _MERGE)

    def _merged(self, node: yaml.MappingNode) -> list[yaml.MappingNode]:
        """The mappings that `<<` brings in, directly or through others, nearest first; each once."""
        seen: dict[
            int, yaml.Node
        ] = {}  # anchors can make a circle, or a tree with more branches than memory holds
        waiting = [value for name, value in node.value if name.tag == _MERGE]
        while waiting:
            value = waiting.pop(0)
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, yaml.SequenceNode):
                waiting = [*value.value, *waiting]
            elif isinstance(value, yaml.MappingNode):
                waiting = [inner for name, inner in value.value if name.tag == _MERGE] + waiting
            else:
                raise self.fail(
                    value, self._dotted("<<"), f"expected a mapping (`<<: *name`), got {describe(value)}."
                )
        return [value for value in seen.values() if isinstance(value, yaml.MappingNode)]

    def _dotted(self, name: str) -> str:
        return f"{self._key}.{name}" if self._key else name

    def fail(self, node: yaml.Node, key: str, problem: str) -> SourceError:
        """An error about a node."""
        return SourceError(f"{self._source.path}:{node.start_mark.line + 1}: {key}: {problem}")


def dotted(at: KeyPath) -> str:
    """A place as people write it: `schedule[2].sigma`."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def describe(node: yaml.Node) -> str:
    """What a node is, for a message."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    value = on_one_line(str(node.value))
    return repr(value if len(value) <= 60 else f"{value[:57]}...") if value else "nothing"


def _unknown_key(name: str, known: tuple[str, ...]) -> str:
    keys = f"The keys here are {', '.join(known)}."
    cut = f"A text with a colon or, in braces, a comma is cut there by YAML. {_QUOTES}"
    return f"unknown key. {did_you_mean(as_key(name), known, cut if ' ' in name else keys)}"
