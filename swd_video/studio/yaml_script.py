"""Scripts in YAML or JSON, of the same keys: what is accepted, and what is refused with its line and key."""

import json
from pathlib import Path

import yaml

from swd_video.plain_text import on_one_line
from swd_video.studio.script import DEFAULT_MODEL, Script, ScriptReader, Shot, check_script
from swd_video.studio.shot_values import (
    DEFAULT_KEYS,
    FILM_KEYS,
    LIST_KEYS,
    REFUSED_KEYS,
    SCRIPT_KEYS,
    SHOT_KEYS,
    Value,
    Written,
    make_film,
    make_shot,
    read_values,
    wanted,
)
from swd_video.yaml_source import Mapping, Source, SourceError, describe, read_each

_NULL = "tag:yaml.org,2002:null"
_PROSE = ("prompt", "title", "marker")
_FILM_CURE = "Write `film: {}` for a film of all shots with cuts, or leave the key out."


class YamlReader(ScriptReader):
    """`shots`, and optionally the other keys of a script; or nothing but a list of prompts or shots."""

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        return self._read(Source(text, path))

    def _read(self, source: Source) -> Script:
        root, path = source.root, source.path
        if root is None:
            raise SourceError(f"{path}:1: the script is empty. Give it at least `shots:` with one shot.")
        bare = isinstance(root, yaml.SequenceNode)  # nothing but prompts or shots
        top = Mapping(source, "", None if bare else root, SCRIPT_KEYS, REFUSED_KEYS)
        own = _values(top, ("title", "model", "seed", "size", "aspect"))
        defaults = _values(
            Mapping(source, "defaults", top.node("defaults"), DEFAULT_KEYS, REFUSED_KEYS), DEFAULT_KEYS
        )
        defaults |= {key: own[key] for key in ("size", "aspect") if key in own}
        entries = _shot_nodes(top, root if bare else top.node("shots"))
        film = None
        if (node := top.node("film")) is not None:
            if not isinstance(node, yaml.MappingNode):
                raise top.error(
                    "film", f"expected keys, such as `titles: true`, got {describe(node)}. {_FILM_CURE}"
                )
            mapping = Mapping(source, "film", node, FILM_KEYS)
            film = make_film(_values(mapping, FILM_KEYS), mapping.line(), path.parent)
        return Script(
            path=path,
            title=own["title"].value if "title" in own else on_one_line(path.stem),
            model=own["model"].value if "model" in own else DEFAULT_MODEL,
            seed=own["seed"].value if "seed" in own else 0,
            shots=read_each(lambda entry: _read_shot(source, *entry, defaults), enumerate(entries)),
            warnings=tuple(source.warnings),
            film=film,
        )


class JsonReader(YamlReader):
    """An object with `shots`, and optionally the other keys of a script; or nothing but a list of prompts or shots.

    JSON is YAML too, whose reader knows the line of every value; what `null` stands at is not given.
    """

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        try:
            json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            problem = error.msg[0].lower() + error.msg[1:]
            raise SourceError(
                f"{path}:{error.lineno}: not valid JSON: {problem}, at column {error.colno}. Check commas, quotes and "
                "brackets there."
            ) from None
        except (RecursionError, ValueError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise SourceError(f"{path}: not valid JSON: {reason}.") from None
        # A tab between values is none of YAML's; inside of a text JSON has none.
        source = Source(text.replace("\t", " "), path)
        _drop_nulls(source.root)
        return self._read(source)


def parse_script(text: str, path: str | Path) -> Script:
    """The checked script of a text; `path` is only used in messages. Raises as `load_script` does."""
    return check_script(YamlReader().read(text, Path(path)))


def _shot_nodes(top: Mapping, node: yaml.Node | None) -> list[yaml.Node]:
    if node is None:
        raise top.missing("shots", "a list of shots, each with `id` and `prompt`")
    if not isinstance(node, yaml.SequenceNode):
        raise top.error("shots", f"expected a list of shots (`- id: ...`), got {describe(node)}.")
    if not node.value:
        raise top.fail(node, "shots", "the list is empty. Give at least one shot with `id` and `prompt`.")
    return list(node.value)


def _values(mapping: Mapping, keys: tuple[str, ...]) -> dict[str, Value]:
    written = {
        key: Written(
            mapping.written(key, wanted(key), many=key in LIST_KEYS, prose=key in _PROSE), mapping.line(key)
        )
        for key in keys
        if mapping.has(key)
    }
    return read_values(written, lambda line, key, problem: mapping.error(key, problem))


def _read_shot(source: Source, index: int, node: yaml.Node, defaults: dict[str, Value]) -> Shot:
    key, line, folder = f"shots[{index}]", node.start_mark.line + 1, source.path.parent
    if isinstance(node, yaml.ScalarNode):  # a bare prompt
        entry = Mapping(source, key, None, SHOT_KEYS)
        written = {"prompt": Written(entry.text_of(node, key, prose=True), line)}
        own = read_values(written, lambda line, name, problem: entry.fail(node, key, problem))
        return make_shot(own, defaults, line, folder, f"shot-{index + 1}")
    entry = Mapping(source, key, node, SHOT_KEYS, REFUSED_KEYS)
    for name in ("id", "prompt"):
        if not entry.has(name):
            raise entry.missing(name, "text")
    return make_shot(_values(entry, SHOT_KEYS), defaults, line, folder)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _drop_nulls(root: yaml.Node | None) -> None:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            node.value = [(name, value) for name, value in node.value if value.tag != _NULL]
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
