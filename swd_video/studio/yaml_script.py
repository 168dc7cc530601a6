"""Scripts in YAML: what is accepted, and what is refused with its line and key."""

from pathlib import Path

import yaml

from swd_video.studio.script import (
    DEFAULT_MODEL,
    MAX_TAKES,
    SEED_LIMIT,
    Script,
    ScriptReader,
    Shot,
    check_script,
    id_problem,
)
from swd_video.yaml_source import Mapping, Source, SourceError, describe

_SHOT_KEYS = ("id", "prompt", "picture", "seconds", "seed", "takes")


class YamlReader(ScriptReader):
    """`shots`, and optionally `title`, `model`, `seed` and `defaults`; or nothing but a list of prompts or shots."""

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        source = Source(text, path)
        root = source.root
        if root is None:
            raise SourceError(f"{path}:1: the script is empty. Give it at least `shots:` with one shot.")
        bare = isinstance(root, yaml.SequenceNode)  # nothing but prompts or shots
        top = Mapping(source, "", None if bare else root, ("title", "model", "seed", "defaults", "shots"))
        defaults = Mapping(source, "defaults", top.node("defaults"), ("seconds", "takes"))
        entries = _shot_nodes(top, root if bare else top.node("shots"))
        return Script(
            path=path,
            title=top.text("title", path.stem, prose=True),
            model=top.text("model", DEFAULT_MODEL),
            seed=top.integer("seed", 0, minimum=0, limit=SEED_LIMIT),
            shots=tuple(_read_shot(source, index, node, defaults) for index, node in enumerate(entries)),
            warnings=tuple(source.warnings),
        )


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


def _read_shot(source: Source, index: int, node: yaml.Node, defaults: Mapping) -> Shot:
    key = f"shots[{index}]"
    seconds, seconds_line = defaults.seconds("seconds", None), defaults.line("seconds")
    takes = defaults.integer("takes", 1, minimum=1, limit=MAX_TAKES + 1)
    if isinstance(node, yaml.ScalarNode):  # a bare prompt
        line = node.start_mark.line + 1
        entry = Mapping(source, key, None, _SHOT_KEYS)
        prompt = entry.read_text(node, key, prose=True)
        return Shot(f"shot-{index + 1}", prompt, seconds, None, takes, line, line, seconds_line or line)
    entry = Mapping(source, key, node, _SHOT_KEYS)
    own_seconds = entry.has("seconds")
    return Shot(
        id=_read_id(entry),
        prompt=entry.text("prompt", prose=True),
        seconds=entry.seconds("seconds", seconds),
        seed=entry.integer("seed", minimum=0, limit=SEED_LIMIT) if entry.has("seed") else None,
        takes=entry.integer("takes", takes, minimum=1, limit=MAX_TAKES + 1),
        line=entry.line(),
        prompt_line=entry.line("prompt"),
        seconds_line=entry.line("seconds") if own_seconds or seconds is None else seconds_line,
        picture=source.path.parent / Path(entry.text("picture")).expanduser()
        if entry.has("picture")
        else None,
        picture_line=entry.line("picture"),
    )


def _read_id(entry: Mapping) -> str:
    shot_id = entry.text("id")
    if problem := id_problem(shot_id):
        raise entry.error("id", problem)
    return shot_id
