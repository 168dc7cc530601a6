"""Scripts in JSON: the same keys as in YAML."""

import json
from pathlib import Path

import yaml

from swd_video.studio.script import Script
from swd_video.studio.yaml_script import YamlReader
from swd_video.yaml_source import Source, SourceError

_NULL = "tag:yaml.org,2002:null"


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
        return self.read_source(source)


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
