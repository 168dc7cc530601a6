"""Scripts: a YAML file that lists shots, read into frozen objects with errors that name the line."""

import difflib
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEFAULT_MODEL = "pocket-wan-swd"
"""The model of a script that names none: the one that ships with the package."""

SEED_LIMIT = 2**62
"""Seeds lie in [0, SEED_LIMIT): with any take number added they stay what `torch.Generator` takes."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAKE_SUFFIX = re.compile(r"-take\d+$", re.IGNORECASE)
# Our own output files, and names that Windows keeps for devices.
_RESERVED_IDS = {"render", "contact_sheet", "con", "prn", "aux", "nul"} | {
    f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)
}


class ScriptError(ValueError):
    """A script that cannot be rendered as written; the message names file, line, key and cure."""


@dataclass(frozen=True)
class Shot:
    """One entry of a script's `shots`, with the script's defaults filled in.

    Attributes:
        id: Unique and safe as a file name.
        prompt: What the clip shows; runs of white space are single blanks.
        seconds: Clip length asked for; None stands for the model's native length.
        seed: The shot's own seed; None when it is derived from the script's.
        takes: How many versions to render, at least 1.
        line: Line of the script on which the shot starts, from 1.
        prompt_line: Line on which its prompt starts.
        seconds_line: Line on which its length was given, maybe as a default; `line` when it was not.
        picture: File of the picture that the clip starts with; None for a clip from text alone.
        picture_line: Line on which that was given.
    """

    id: str
    prompt: str
    seconds: float | None
    seed: int | None
    takes: int
    line: int
    prompt_line: int
    seconds_line: int
    picture: Path | None = None
    picture_line: int = 0


@dataclass(frozen=True)
class Take:
    """One clip to render: a shot, its take number (from 1) and the seed that goes with it."""

    shot: Shot
    take: int
    seed: int

    @property
    def name(self) -> str:
        """File name without suffix; the first take has the bare id, so adding takes renames nothing."""
        return self.shot.id if self.take == 1 else f"{self.shot.id}-take{self.take}"


@dataclass(frozen=True)
class Script:
    """A validated script.

    Attributes:
        path: The file it was read from, for messages.
        title: Headline of the contact sheet.
        model: Name or folder, as `load_student` takes it.
        seed: What the seeds of all shots without their own derive from.
        shots: In the order of the file.
    """

    path: Path
    title: str
    model: str
    seed: int
    shots: tuple[Shot, ...]

    def takes(self) -> Iterator[Take]:
        """Yield every clip to render, in the order of the file."""
        for shot in self.shots:
            for take in range(1, shot.takes + 1):
                if shot.seed is None:
                    yield Take(shot, take, derive_seed(self.seed, shot.id, take))
                else:
                    yield Take(shot, take, shot.seed + take - 1)

    def error(self, line: int, key: str, problem: str) -> ScriptError:
        """Return an error that points at a line of this script."""
        return ScriptError(f"{self.path}:{line}: {key}: {problem}")


def derive_seed(script_seed: int, shot_id: str, take: int) -> int:
    """Return the seed of one take: a hash of the three arguments and of nothing else.

    So neither the order of the shots nor an edit to one of them can change what another one shows.
    Seeds stay below 2**32, short enough to be copied by hand into a shot.

    Args:
        script_seed: The script's `seed`.
        shot_id: The shot's `id`.
        take: Take number, from 1.
    """
    digest = hashlib.sha256(f"{script_seed}/{shot_id}/{take}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def load_script(path: str | Path) -> Script:
    """Read and validate a script.

    Args:
        path: YAML file with `shots` and optionally `title`, `model`, `seed` and `defaults`.

    Raises:
        ScriptError: The file is missing, is not YAML or holds something that a script may not hold.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScriptError(f"{path}: no such script. Check the path.") from None
    except IsADirectoryError:
        raise ScriptError(f"{path}: is a folder. Name the script's YAML file.") from None
    except UnicodeDecodeError as error:
        raise ScriptError(f"{path}: not UTF-8 text ({error.reason}). Save the script as UTF-8.") from None
    return parse_script(text, path)


def parse_script(text: str, path: str | Path) -> Script:
    """Validate the text of a script; `path` is only used in messages. Raises as `load_script` does."""
    path = Path(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        open_quote = error.context == "while scanning a quoted scalar"
        mark = error.context_mark if open_quote else error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = "a quote that opens here is not closed" if open_quote else error.problem
        raise ScriptError(f"{where}: not valid YAML: {problem}. Check indentation and quotes.") from None
    except yaml.YAMLError as error:
        raise ScriptError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if node is None:
        raise ScriptError(f"{path}:1: the script is empty. Give it at least `shots:` with one shot.")

    top = _Mapping(path, loader, "", node, ("title", "model", "seed", "defaults", "shots"))
    defaults = _Mapping(path, loader, "defaults", top.node("defaults"), ("seconds", "takes"))
    seconds = defaults.seconds("seconds", None)
    seconds_line = defaults.line("seconds")
    takes = defaults.integer("takes", 1, minimum=1)

    shots = []
    for index, shot_node in enumerate(top.items("shots")):
        entry = _Mapping(
            path,
            loader,
            f"shots[{index}]",
            shot_node,
            ("id", "prompt", "picture", "seconds", "seed", "takes"),
        )
        own_seconds = entry.has("seconds")
        shots.append(
            Shot(
                id=_read_id(entry),
                prompt=entry.text("prompt"),
                seconds=entry.seconds("seconds", seconds),
                seed=entry.integer("seed", minimum=0) if entry.has("seed") else None,
                takes=entry.integer("takes", takes, minimum=1),
                line=entry.line(),
                prompt_line=entry.line("prompt"),
                seconds_line=entry.line("seconds") if own_seconds or seconds is None else seconds_line,
                picture=path.parent / Path(entry.text("picture")).expanduser()
                if entry.has("picture")
                else None,
                picture_line=entry.line("picture"),
            )
        )
    script = Script(
        path=path,
        title=top.text("title", path.stem),
        model=top.text("model", DEFAULT_MODEL),
        seed=top.integer("seed", 0, minimum=0),
        shots=tuple(shots),
    )
    _check_ids(script)
    return script


def _read_id(entry: "_Mapping") -> str:
    shot_id = entry.text("id")
    if not _ID.fullmatch(shot_id):
        raise entry.error(
            "id",
            f"{shot_id!r} is not a file name that works everywhere. "
            "Use up to 64 letters, digits, '-' and '_', starting with a letter or digit.",
        )
    if shot_id.lower() in _RESERVED_IDS:
        raise entry.error("id", f"{shot_id!r} is reserved for another file. Choose another id.")
    if _TAKE_SUFFIX.search(shot_id):
        raise entry.error(
            "id", f"{shot_id!r} ends like the file of another take. Choose another id, or use `takes`."
        )
    return shot_id


def _check_ids(script: Script) -> None:
    seen: dict[str, int] = {}
    for index, shot in enumerate(script.shots):
        folded = shot.id.lower()  # some file systems do not tell cases apart
        if folded in seen:
            first = seen[folded]
            raise script.error(
                shot.line,
                f"shots[{index}].id",
                f"{shot.id!r} is already the id of shots[{first}] on line {script.shots[first].line} "
                "(upper and lower case count as the same). Ids must be unique: rename one.",
            )
        seen[folded] = index


_MISSING = object()


class _Mapping:
    """One YAML mapping with typed access; every error carries file, line and dotted key."""

    def __init__(
        self, path: Path, loader: yaml.SafeLoader, key: str, node: yaml.Node | None, known: tuple[str, ...]
    ) -> None:
        self._path, self._loader, self._key, self._node = path, loader, key, node
        self._values: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            where = key or "script"
            keys = ", ".join(f"`{name}:`" for name in known)
            raise self._fail(node, where, f"expected a mapping with the keys {keys}, got {_describe(node)}.")
        for name_node, value_node in node.value:
            name = str(name_node.value)
            if name not in known:
                raise self._fail(name_node, self._dotted(name), _unknown_key(name, known))
            if name in self._values:
                line = self._values[name][0].start_mark.line + 1
                raise self._fail(
                    name_node, self._dotted(name), f"given twice, first on line {line}. Keep one."
                )
            self._values[name] = (name_node, value_node)

    def error(self, name: str, problem: str) -> ScriptError:
        return self._fail(self._values[name][1], self._dotted(name), problem)

    def line(self, name: str | None = None) -> int:
        if name in self._values:
            return int(self._values[name][1].start_mark.line) + 1
        return int(self._node.start_mark.line) + 1 if self._node is not None else 1

    def has(self, name: str) -> bool:
        return name in self._values

    def node(self, name: str) -> yaml.Node | None:
        return self._values[name][1] if name in self._values else None

    def items(self, name: str) -> list[yaml.Node]:
        node = self.node(name)
        if node is None:
            raise self._missing(name, "a list of shots, each with `id` and `prompt`")
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(name, f"expected a list of shots (`- id: ...`), got {_describe(node)}.")
        if not node.value:
            raise self.error(name, "the list is empty. Give at least one shot with `id` and `prompt`.")
        return list(node.value)

    def text(self, name: str, default: Any = _MISSING) -> str:
        value = self._scalar(name, "text", default)
        if not isinstance(value, str):
            given = self._values[name][1].value
            raise self.error(name, f"expected text, got {value!r}. Put it in quotes: '{given}'.")
        value = " ".join(value.split())
        if not value:
            raise self.error(name, "expected text, got an empty one. Write something, or drop the key.")
        return value

    def integer(self, name: str, default: Any = _MISSING, *, minimum: int) -> int:
        value = self._scalar(name, "a whole number", default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < SEED_LIMIT:
            raise self.error(
                name, f"expected a whole number from {minimum}, got {value!r}. Correct or drop it."
            )
        return value

    def seconds(self, name: str, default: float | None) -> float | None:
        value = self._scalar(name, "seconds", default)
        if value is default:
            return default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise self.error(
                name,
                f"expected seconds above 0, got {value!r}. Drop the key to get the model's native length.",
            )
        return float(value)

    def _scalar(self, name: str, wanted: str, default: Any) -> Any:
        node = self.node(name)
        if node is None:
            if default is _MISSING:
                raise self._missing(name, wanted)
            return default
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(name, f"expected {wanted}, got {_describe(node)}.")
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise self.error(name, f"expected {wanted}, got {node.value!r}.") from None

    def _missing(self, name: str, wanted: str) -> ScriptError:
        line = self.line()
        return ScriptError(
            f"{self._path}:{line}: {self._dotted(name)}: missing. Add `{name}:` with {wanted}."
        )

    def _dotted(self, name: str) -> str:
        return f"{self._key}.{name}" if self._key else name

    def _fail(self, node: yaml.Node, key: str, problem: str) -> ScriptError:
        return ScriptError(f"{self._path}:{node.start_mark.line + 1}: {key}: {problem}")


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"{node.value!r}" if node.value else "nothing"


def _unknown_key(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"unknown key. Did you mean `{close[0]}`?"
    return f"unknown key. The keys here are {', '.join(known)}."
