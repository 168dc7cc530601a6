"""Scripts: a title, a model and shots, whatever the form of the file that lists them."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swd_video.extensions import find
from swd_video.plain_text import clean_text, did_you_mean
from swd_video.yaml_source import SourceError, read_each, read_file

DEFAULT_MODEL = "pocket-wan-swd"
"""The model of a script that names none: the one that ships with the package."""

SEED_LIMIT = 2**62
"""Seeds lie in [0, SEED_LIMIT): with any take number added they stay what `torch.Generator` takes."""

LONGEST_SECONDS = 86_400.0
"""A day: longer than any clip."""

MAX_TAKES = 1000
"""Of one shot."""

MAX_CLIPS = 100_000
"""Of one script; planning a clip costs time and memory before the first is rendered."""

MAX_FRAMES = 100_000
"""Of one clip."""

MAX_PIXELS = 100_000
"""Of a clip's width and of its height."""

DEFAULT_CROSSFADE_SECONDS = 0.5
"""Of a crossfade that does not say how long."""

ASPECT = re.compile(r"([1-9][0-9]{0,3}(?:\.[0-9]{1,4})?)\s*:\s*([1-9][0-9]{0,3}(?:\.[0-9]{1,4})?)")
"""Width and height of a picture's shape, "16:9"."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAKE_SUFFIX = re.compile(r"-take([0-9]+)$", re.IGNORECASE)
# Our own output files, and names that Windows keeps for devices.
_RESERVED_IDS = {
    "render", "contact_sheet", "queue", "picks", "film", "player", "drafts", "unused", "con", "prn", "aux", "nul",
    *(f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)),
}  # fmt: skip


@dataclass(frozen=True)
class Transition:
    """How a film comes into a shot.

    Attributes:
        kind: "cut", or "crossfade" from the shot before.
        seconds: Of the crossfade; 0 for a cut.
    """

    kind: Literal["cut", "crossfade"]
    seconds: float = 0.0


@dataclass(frozen=True)
class Shot:
    """One entry of a script's `shots`, with the script's defaults filled in.

    Shots of different files are equal if they ask for the same; where they are written does not count.

    Attributes:
        id: Unique and safe as a file name.
        prompt: What the clip shows; runs of white space are single blanks.
        seconds: Clip length asked for; None, with no `frames` either, stands for the model's native length.
        seed: The shot's own seed; None when it is derived from the script's.
        takes: How many versions to render, at least 1.
        line: Line of the script on which the shot starts, from 1.
        picture: File of the picture that the clip starts with; None for a clip from text alone.
        frames: Exact number of frames asked for, instead of `seconds`.
        size: Height and width in pixels; None for the aspect's or the model's native size.
        aspect: Shape of the picture, "16:9", instead of `size`.
        pick: Numbers of the takes to render; empty for all of `takes`. They may be larger than `takes`.
        keep: Takes that no later edit of the script renders anew: all, or those numbers.
        continues: Id of the shot from whose last pictures this one starts.
        title: Shown on the film.
        trim: Seconds that the film cuts off at the start and at the end.
        transition: How the film comes into the shot; None for what the film does everywhere.
        marker: Text that stands at the shot on a timeline: the dialogue of a screenplay.
        lines: Line on which each key was given, maybe as a default; see `line_of`.
    """

    id: str
    prompt: str
    seconds: float | None = None
    seed: int | None = None
    takes: int = 1
    line: int = field(default=1, compare=False)
    picture: Path | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    aspect: str | None = None
    pick: tuple[int, ...] = ()
    keep: bool | tuple[int, ...] = False
    continues: str | None = None
    title: str | None = None
    trim: tuple[float, float] | None = None
    transition: Transition | None = None
    marker: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    def line_of(self, key: str) -> int:
        """Line on which a key was given; that of the shot when it was not."""
        return self.lines.get(key, self.line)

    def keeps(self, take: int) -> bool:
        """Whether a take is kept as it is."""
        return self.keep if isinstance(self.keep, bool) else take in self.keep


@dataclass(frozen=True)
class FilmSettings:
    """What a script's `film` says.

    Attributes:
        sound: File that is laid under the film; None for silence.
        order: Ids of the shots to show, in this order; empty for all as they stand in the script.
        crossfade: Seconds of the crossfade into every shot that has no `transition`; 0 for cuts.
        titles: Whether the film begins with the script's title and shows those of the shots.
        line: Line on which it starts.
        lines: Line on which each key was given.
        flags: Keys that the command line gave in place of the script's.
    """

    sound: Path | None = None
    order: tuple[str, ...] = ()
    crossfade: float = 0.0
    titles: bool = False
    line: int = field(default=1, compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    flags: Collection[str] = field(default=(), compare=False)


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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as every file about a take begins with them."""
        return {"id": self.shot.id, "take": self.take, "prompt": self.shot.prompt, "seed": self.seed}


@dataclass(frozen=True)
class Script:
    """A validated script.

    Attributes:
        path: The file it was read from, for messages.
        title: Headline of the contact sheet.
        model: Name or folder, as `load_student` takes it.
        seed: What the seeds of all shots without their own derive from.
        shots: In the order of the file.
        warnings: What was left out though it may have been meant, as `file:line: key: ...`.
        film: How the shots become a film; None where the script does not say.
    """

    path: Path
    title: str
    model: str
    seed: int
    shots: tuple[Shot, ...]
    warnings: tuple[str, ...] = ()
    film: FilmSettings | None = None

    @property
    def film_settings(self) -> FilmSettings:
        """How a film of the shots is made: all of them with cuts where the script does not say."""
        return self.film or FilmSettings()

    def takes(self) -> Iterator[Take]:
        """Yield every clip to render, in the order of the file: the picked takes of a shot, else all."""
        for shot in self.shots:
            for take in shot.pick or range(1, shot.takes + 1):
                yield self.take(shot, take)

    def take(self, shot: Shot, number: int) -> Take:
        """One take of a shot, by its number from 1."""
        if shot.seed is None:
            return Take(shot, number, derive_seed(self.seed, shot.id, number))
        return Take(shot, number, shot.seed + number - 1)

    def shown_take(self, shot: Shot) -> Take:
        """The take of a shot that a film shows, and that other shots continue: the first picked one, else the first."""
        return self.take(shot, shot.pick[0] if shot.pick else 1)

    def error(self, line: int, key: str, problem: str) -> SourceError:
        """Return an error that points at a line of this script."""
        return SourceError(f"{self.path}:{line}: {key}: {problem}")

    def shot_error(self, shot: Shot, key: str, problem: str) -> SourceError:
        """Return an error about a key of one of the shots."""
        index = [one.id for one in self.shots].index(shot.id)
        return self.error(shot.line_of(key), f"shots[{index}].{key}", problem)

    def film_error(self, key: str, problem: str) -> SourceError:
        """Return an error that points at where a key of the film was given; at the film when it was not."""
        settings = self.film_settings
        if key in settings.flags:
            return SourceError(f"--{key}: {problem}")
        return self.error(settings.lines.get(key, settings.line), f"film.{key}", problem)


def derive_seed(script_seed: int, shot_id: str, take: int) -> int:
    """Return the seed of one take: a hash of the three arguments and of nothing else.

    So neither the order of the shots nor an edit to one of them can change what another one shows.
    Seeds stay below 2**32, short enough to be copied by hand into a shot.
    """
    digest = hashlib.sha256(f"{script_seed}/{shot_id}/{take}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def shot_and_take(name: str) -> tuple[str, int]:
    """The id of the shot and the number of the take of a `Take.name`: no id ends like a take."""
    found = _TAKE_SUFFIX.search(name)
    return (name, 1) if found is None else (name[: found.start()], int(found[1]))


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


# Addresses, so that a form's reader, and what it needs, is imported where a script has that form.
_READERS = {
    **dict.fromkeys(("yaml", "yml", ""), "swd_video.studio.yaml_script:YamlReader"),
    "json": "swd_video.studio.yaml_script:JsonReader",
    **dict.fromkeys(("csv", "tsv"), "swd_video.studio.table_script:TableReader"),
    "txt": "swd_video.studio.text_script:TextReader",
    "fountain": "swd_video.studio.fountain_script:FountainReader",
    "fdx": "swd_video.studio.fdx_script:FdxReader",
}


def load_script(path: str | Path, reader: str | None = None) -> Script:
    """Read and check a script.

    Args:
        path: its file. The reader follows from the suffix; files of a suffix that none is known for are YAML.
        reader: `module:Class` of the reader to take instead, the name of its entry point, or the suffix of a form that
            the package reads.

    Raises:
        SourceError: The file is missing, is not of its form or holds something that a script may not hold.
        ValueError: The reader is none.
    """
    path = Path(path)
    return read_script(read_file(path, "script"), path, reader)


def read_script(text: str, path: Path, reader: str | None) -> Script:
    """Read and check the text of a script, as `load_script` does with the file `path`."""
    return check_script(_reader_for(path, reader)().read(text, path))


def _reader_for(path: Path, reader: str | None) -> type[ScriptReader]:
    name = reader or path.suffix.removeprefix(".").lower()
    found = find("script_readers", name)  # first, as a package that offers one was installed for it
    if found is None and (name in _READERS or reader is None):
        found = find("script_readers", _READERS.get(name, _READERS[""]))
    if not (isinstance(found, type) and issubclass(found, ScriptReader)):
        raise ValueError(f"{name}: is no ScriptReader; give the module:Class of one derived from it.")
    return found


def check_script(script: Script) -> Script:
    """The script itself, with shots that can be told apart, seeded and stored.

    Raises:
        SourceError: naming the shots and keys that cannot.
    """
    first: dict[str, int] = {}

    def check_shot(index: int, shot: Shot) -> None:
        problem = _problem_of(shot) or _problem_of_id(shot.id, first, script)
        first.setdefault(shot.id.lower(), index)
        if problem:
            raise script.error(shot.line_of(problem[0]), f"shots[{index}].{problem[0]}", problem[1])

    read_each(lambda entry: check_shot(*entry), enumerate(script.shots))
    if not script.shots:
        raise SourceError(f"{script.path}:1: shots: there is none. Give at least one shot with a prompt.")
    _check_links(script)
    count = sum(len(shot.pick) or shot.takes for shot in script.shots)
    if count > MAX_CLIPS:
        raise SourceError(
            f"{script.path}: has {count} clips, expected at most {MAX_CLIPS}. Take fewer `takes`, or divide the "
            "script."
        )
    return script


def _check_links(script: Script) -> None:
    """Refuse names of shots that there are not, and shots that continue each other in a circle."""
    shots = {shot.id: shot for shot in script.shots}

    def check_link(shot: Shot) -> None:
        if shot.continues is None:
            return
        if shot.continues not in shots:
            raise script.shot_error(shot, "continues", _no_such_shot(shot.continues, shots))
        if shot.picture is not None:
            problem = "stands beside `picture`: a clip has one beginning. Keep one of them."
            raise script.shot_error(shot, "continues", problem)

    read_each(check_link, script.shots)
    ends: set[str] = set()  # shots whose chain is known to have a beginning
    for shot in script.shots:
        chain: dict[str, None] = {}
        at: str | None = shot.id
        while at is not None and at not in ends:
            if at in chain:
                circle = " -> ".join([*chain, at])
                problem = f"goes in a circle, {circle}. Let one of them begin anew."
                raise script.shot_error(shot, "continues", problem)
            chain[at] = None
            at = shots[at].continues
        ends.update(chain)
    for shot_id in script.film_settings.order:
        if shot_id not in shots:
            raise script.film_error("order", _no_such_shot(shot_id, shots))


def _no_such_shot(shot_id: str, shots: Mapping[str, Shot]) -> str:
    cure = did_you_mean(shot_id, shots, "Name one of this script's.", "{!r}")
    return f"{shot_id!r} is the id of no shot. {cure}"


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
    for key, text in (("prompt", shot.prompt), ("title", shot.title), ("marker", shot.marker)):
        if text is None:
            continue
        try:
            if clean_text(text) != text or not text.strip():
                return key, "expected text without control characters. Write something."
        except ValueError as error:
            return key, str(error)
    seconds = [("seconds", shot.seconds, False), *(("trim", part, True) for part in shot.trim or ())]
    if shot.transition is not None and shot.transition.kind == "crossfade":
        seconds.append(("transition", shot.transition.seconds, False))
    for key, length, may_be_0 in seconds:
        if length is not None and not (0 <= length <= LONGEST_SECONDS and (length or may_be_0)):
            above = "from" if may_be_0 else "above"
            return key, f"expected seconds {above} 0, got {length}. Correct or drop it."
    if shot.aspect is not None and not ASPECT.fullmatch(shot.aspect):
        return "aspect", f"expected WIDTH:HEIGHT, such as 16:9, got {shot.aspect!r}. Correct or drop it."
    whole = [("seed", shot.seed, 0, SEED_LIMIT), ("takes", shot.takes, 1, MAX_TAKES + 1)]
    whole += [("pick", take, 1, MAX_TAKES + 1) for take in shot.pick]
    whole += [("keep", take, 1, MAX_TAKES + 1) for take in ([] if isinstance(shot.keep, bool) else shot.keep)]
    whole += [("frames", shot.frames, 1, MAX_FRAMES + 1)]
    whole += [("size", pixels, 1, MAX_PIXELS + 1) for pixels in shot.size or ()]
    for key, value, least, limit in whole:
        if value is not None and not least <= value < limit:
            return (
                key,
                f"expected a whole number from {least} to {limit - 1}, got {value}. Correct or drop it.",
            )
    return None
