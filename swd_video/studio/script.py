"""Scripts: a YAML file that lists shots, read into frozen objects with errors that name the line."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from swd_video.yaml_source import Mapping, Source, SourceError, describe, read_source

DEFAULT_MODEL = "pocket-wan-swd"
"""The model of a script that names none: the one that ships with the package."""

SEED_LIMIT = 2**62
"""Seeds lie in [0, SEED_LIMIT): with any take number added they stay what `torch.Generator` takes."""

MAX_TAKES = 1000
"""Of one shot."""

MAX_CLIPS = 100_000
"""Of one script; planning a clip costs time and memory before the first is rendered."""

_SHOT_KEYS = ("id", "prompt", "picture", "seconds", "seed", "takes")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAKE_SUFFIX = re.compile(r"-take\d+$", re.IGNORECASE)
# Our own output files, and names that Windows keeps for devices.
_RESERVED_IDS = {"render", "contact_sheet", "con", "prn", "aux", "nul"} | {
    f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)
}


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
        warnings: What YAML took for comments though it may belong to a text, as `file:line: key: ...`.
    """

    path: Path
    title: str
    model: str
    seed: int
    shots: tuple[Shot, ...]
    warnings: tuple[str, ...] = ()

    def takes(self) -> Iterator[Take]:
        """Yield every clip to render, in the order of the file."""
        for shot in self.shots:
            for take in range(1, shot.takes + 1):
                if shot.seed is None:
                    yield Take(shot, take, derive_seed(self.seed, shot.id, take))
                else:
                    yield Take(shot, take, shot.seed + take - 1)

    def error(self, line: int, key: str, problem: str) -> SourceError:
        """Return an error that points at a line of this script."""
        return SourceError(f"{self.path}:{line}: {key}: {problem}")


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
        path: YAML file with `shots` and optionally `title`, `model`, `seed` and `defaults`, or with a list of prompts.

    Raises:
        SourceError: The file is missing, is not YAML or holds something that a script may not hold.
    """
    return _read_script(read_source(Path(path), "script"))


def parse_script(text: str, path: str | Path) -> Script:
    """Validate the text of a script; `path` is only used in messages. Raises as `load_script` does."""
    return _read_script(Source(text, Path(path)))


def _read_script(source: Source) -> Script:
    path, root = source.path, source.root
    if root is None:
        raise SourceError(f"{path}:1: the script is empty. Give it at least `shots:` with one shot.")
    bare = isinstance(root, yaml.SequenceNode)  # nothing but prompts or shots
    top = Mapping(source, "", None if bare else root, ("title", "model", "seed", "defaults", "shots"))
    defaults = Mapping(source, "defaults", top.node("defaults"), ("seconds", "takes"))
    entries = _shot_nodes(top, root if bare else top.node("shots"))
    script = Script(
        path=path,
        title=top.text("title", path.stem, prose=True),
        model=top.text("model", DEFAULT_MODEL),
        seed=top.integer("seed", 0, minimum=0, limit=SEED_LIMIT),
        shots=tuple(_read_shot(source, index, node, defaults) for index, node in enumerate(entries)),
        warnings=tuple(source.warnings),
    )
    _check_ids(script)
    count = sum(shot.takes for shot in script.shots)
    if count > MAX_CLIPS:
        raise SourceError(
            f"{path}: has {count} clips, expected at most {MAX_CLIPS}. Take fewer `takes`, or divide the script."
        )
    return script


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
