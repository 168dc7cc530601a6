"""Scripts: a title, a model and shots, whatever the form of the file that lists them."""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swd_video.extensions import find
from swd_video.plain_text import clean_text
from swd_video.yaml_source import SourceError, read_file

DEFAULT_MODEL = "pocket-wan-swd"
"""The model of a script that names none: the one that ships with the package."""

SEED_LIMIT = 2**62
"""Seeds lie in [0, SEED_LIMIT): with any take number added they stay what `torch.Generator` takes."""

MAX_TAKES = 1000
"""Of one shot."""

MAX_CLIPS = 100_000
"""Of one script; planning a clip costs time and memory before the first is rendered."""

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
    """
    digest = hashlib.sha256(f"{script_seed}/{shot_id}/{take}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


class ScriptReader(ABC):
    """Reads scripts of one form.

    Another package offers one by an entry point in the group `swd_video.script_readers`, named like the suffix of its
    files: `csv = "package.module:CsvReader"`. What it returns is checked as every script is.
    """

    @abstractmethod
    def read(self, text: str, path: Path) -> Script:
        """The script that a text holds.

        Raises:
            SourceError: if it is no script of this form; the message names file, line, key and cure.
        """


def load_script(path: str | Path, reader: str | None = None) -> Script:
    """Read and check a script.

    Args:
        path: its file. The reader follows from the suffix; files of a suffix that none is known for are YAML.
        reader: `module:Class` of the reader to take instead, or the name of its entry point.

    Raises:
        SourceError: The file is missing, is not of its form or holds something that a script may not hold.
        ValueError: The reader is none.
    """
    path = Path(path)
    name = reader or path.suffix.removeprefix(".").lower()
    found = None if reader is None and name in ("yaml", "yml", "") else find("script_readers", name)
    if found is None and reader is None:
        from swd_video.studio.yaml_script import YamlReader as found
    if not (isinstance(found, type) and issubclass(found, ScriptReader)):
        raise ValueError(f"{name}: is no ScriptReader; give the module:Class of one derived from it.")
    return check_script(found().read(read_file(path, "script"), path))


def check_script(script: Script) -> Script:
    """The script itself, with shots that can be told apart, seeded and stored.

    Raises:
        SourceError: naming the first shot and key that cannot.
    """
    first: dict[str, int] = {}
    for index, shot in enumerate(script.shots):
        if problem := _problem_of(shot) or _problem_of_id(shot.id, first, script):
            raise script.error(shot.line, f"shots[{index}].{problem[0]}", problem[1])
        first[shot.id.lower()] = index
    if not script.shots:
        raise SourceError(f"{script.path}:1: shots: there is none. Give at least one shot with a prompt.")
    count = sum(shot.takes for shot in script.shots)
    if count > MAX_CLIPS:
        raise SourceError(
            f"{script.path}: has {count} clips, expected at most {MAX_CLIPS}. Take fewer `takes`, or divide the "
            "script."
        )
    return script


def id_problem(shot_id: str) -> str | None:
    """Why an id cannot name a file, with the cure; None if it can."""
    if not _ID.fullmatch(shot_id):
        return (
            f"{shot_id!r} is not a file name that works everywhere. "
            "Use up to 64 letters, digits, '-' and '_', starting with a letter or digit."
        )
    if shot_id.lower() in _RESERVED_IDS:
        return f"{shot_id!r} is reserved for another file. Choose another id."
    if _TAKE_SUFFIX.search(shot_id):
        return f"{shot_id!r} ends like the file of another take. Choose another id, or use `takes`."
    return None


def _problem_of_id(shot_id: str, first: dict[str, int], script: Script) -> tuple[str, str] | None:
    if problem := id_problem(shot_id):
        return "id", problem
    if (index := first.get(shot_id.lower())) is None:  # some file systems do not tell cases apart
        return None
    return "id", (
        f"{shot_id!r} is already the id of shots[{index}] on line {script.shots[index].line} "
        "(upper and lower case count as the same). Ids must be unique: rename one."
    )


def _problem_of(shot: Shot) -> tuple[str, str] | None:
    try:
        if clean_text(shot.prompt) != shot.prompt or not shot.prompt.strip():
            return "prompt", "expected text without control characters. Write something."
    except ValueError as error:
        return "prompt", str(error)
    if shot.seconds is not None and not 0 < shot.seconds < math.inf:
        return "seconds", f"expected seconds above 0, got {shot.seconds}. Correct or drop it."
    for key, value, least, limit in (
        ("seed", shot.seed, 0, SEED_LIMIT),
        ("takes", shot.takes, 1, MAX_TAKES + 1),
    ):
        if value is not None and not least <= value < limit:
            return (
                key,
                f"expected a whole number from {least} to {limit - 1}, got {value}. Correct or drop it.",
            )
    return None
