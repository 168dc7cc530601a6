"""From a screenplay to shots, whatever its file's form: its paragraphs cut as a person would cut them.

Every paragraph of action is a shot. Its prompt is the action with the scene's place and time of day behind it, which
its heading gives. Dialogue is the marker of the shot that it is heard over, a card the title of the shot that follows.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from swd_video.plain_text import as_key, on_one_line, sentence
from swd_video.studio.script import DEFAULT_CROSSFADE_SECONDS, DEFAULT_MODEL, Script, Shot
from swd_video.studio.shot_values import (
    REFUSED_KEYS,
    SHOT_KEYS,
    Value,
    Written,
    make_shot,
    overridden,
    read_values,
    with_ids,
)
from swd_video.yaml_source import SourceError, read_each

PartKind = Literal["heading", "direction", "action", "speaker", "speech", "transition", "card"]

TITLE_PAGE_KEYS = ("title", "model", "seed", "size", "aspect", "seconds", "takes")
"""What a title page may say beside what other programs read there."""

NOTE = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
"""A note in the text of a screenplay."""

_OF_SCRIPT = ("title", "model", "seed")
_OUTSIDE = re.compile(
    r"^\s*(?:int\.?\s*/\s*ext|ext\.?\s*/\s*int|i\s*/\s*e|int|ext|est)\b[.\s]*", re.IGNORECASE
)
_DASH = re.compile(r"\s+[-–—]+\s+")
_SCENE_NUMBER = re.compile(r"#[\w.-]+#\s*$")
_TIME = re.compile(
    r"(?:(?:early|late|mid|pre)[\s-]*)?(?:day|night|morning|afternoon|evening|dawn|dusk|sunrise|sunset|noon|midday|"
    r"midnight|twilight|magic hour|golden hour)\b.*",
    re.IGNORECASE,
)
_SAME_TIME = re.compile(
    r"(?:continuous|same|later|(?:moments?|minutes?|seconds?) (?:later|earlier))\b.*", re.IGNORECASE
)
_CROSSFADE = re.compile(r"\bdissolve|\bcross[\s-]?(?:fade|dissolve)", re.IGNORECASE)
_CUT = re.compile(r"\bcut\b|\bback to\b", re.IGNORECASE)
_KNOWN = "|".join(sorted((*SHOT_KEYS, *REFUSED_KEYS), key=len, reverse=True)).replace("_", "[ _-]")
_NOTE_KEY = re.compile(rf"(?:^|[,;\n])\s*({_KNOWN})\s*:", re.IGNORECASE)
_FIRST_WORD = re.compile(r"\s*([A-Za-z_]+)\s*:")


@dataclass(frozen=True)
class Part:
    """A paragraph of a screenplay, or a line of its dialogue.

    Attributes:
        kind: What it is; "direction" is a camera's, for the action behind it, "card" a text to be read on the screen.
        text: Without notes and markup.
    """

    kind: PartKind
    text: str
    line: int
    notes: tuple[Written, ...]


def is_of_title_page(key: str, line: int, path: Path) -> bool:
    """Whether a key of a title page is one of ours.

    Raises:
        SourceError: if it is one that a student cannot honour.
    """
    if key in REFUSED_KEYS:
        raise SourceError(f"{path}:{line}: {key}: {REFUSED_KEYS[key]}.")
    return key in TITLE_PAGE_KEYS


def unclosed_note(path: Path, line: int) -> SourceError:
    """The error of a note without an end."""
    return SourceError(
        f"{path}:{line}: a note, `[[`, is not closed before the paragraph ends. Write `]]` behind it."
    )


def cut(parts: Iterable[Part], title_page: Mapping[str, Written], path: Path) -> Script:
    """The script of a screenplay.

    The title page has those of `TITLE_PAGE_KEYS` that are given; paths in notes start at the folder of the file.

    Raises:
        SourceError: for a value that cannot stand at its key.
    """
    cutter = _Cutter(path)
    for part in parts:
        cutter.take(part)
    cutter.end()
    top = read_values(title_page, lambda line, key, problem: SourceError(f"{path}:{line}: {key}: {problem}"))
    given = {key: top.pop(key).value for key in _OF_SCRIPT if key in top}
    shots = read_each(lambda entry: _shot(*entry, top, path), enumerate(cutter.cuts))
    return Script(
        path=path,
        title=given.get("title", on_one_line(path.stem)),
        model=given.get("model", DEFAULT_MODEL),
        seed=given.get("seed", 0),
        shots=with_ids(shots),
        warnings=tuple(cutter.warnings),
    )


@dataclass
class _Cut:
    """A shot so far: what is said of it, and of its scene."""

    line: int
    written: dict[str, Written]
    scene: dict[str, Written]
    speech: list[str] = field(default_factory=list)
    speech_line: int = 0


class _Cutter:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.cuts: list[_Cut] = []
        self.warnings: list[str] = []
        self._where = ""  # the place and time of the scene, as a sentence
        self._time = ""
        self._scene: dict[str, Written] = {}
        self._of_scene: list[_Cut] = []
        self._waiting: dict[str, Written] = {}  # for the next shot: its transition, its title
        self._direction: Part | None = None
        self._speech: list[Part] = []

    def take(self, part: Part) -> None:
        if part.kind not in ("speaker", "speech"):
            self._end_speech()
        if part.kind == "heading":
            self._begin_scene(part)
        elif part.kind == "direction":
            self._end_direction()
            self._direction = part
        elif part.kind == "action":
            self._act(part)
        elif part.kind == "transition":
            self._change(part)
        elif part.kind == "card":
            if part.text:
                self._waiting["title"] = Written(part.text, part.line)
            self._take_notes(part, self._waiting)
        else:
            self._speech.append(part)
            self._take_notes(part)

    def end(self) -> None:
        self._end_scene()
        if card := self._waiting.get("title"):
            self._warn(card.line, f"no shot follows the card {card.text!r}, so nothing shows it.")

    def _begin_scene(self, part: Part) -> None:
        self._end_scene()
        self._scene = {}
        self._where, self._time = _read_heading(part.text, self._time)
        self._take_notes(part)

    def _end_scene(self) -> None:
        self._end_speech()
        self._end_direction()
        for what, lost in (("dialogue", self._speech), ("what a note says", [*self._scene.values()])):
            if lost and not self._of_scene:
                self._warn(
                    lost[0].line, f"{what} of a scene without action stands at no shot. Write what is seen."
                )
        self._speech, self._of_scene = [], []

    def _end_direction(self) -> None:
        """A direction that no action follows is seen for itself."""
        if direction := self._direction:
            self._direction = None
            self._act(direction)

    def _act(self, part: Part) -> None:
        text = " ".join(part.text.split())
        if not text:
            self._take_notes(part)
            return
        line = part.line
        if self._direction:
            text, line = f"{sentence(_calm(self._direction.text))} {text}", self._direction.line
            part = Part("action", text, line, (*self._direction.notes, *part.notes))
            self._direction = None
        prompt = f"{sentence(text)} {self._where}" if self._where else text
        shot = _Cut(line, {"prompt": Written(prompt, line), **self._waiting}, self._scene)
        self._waiting = {}
        self.cuts.append(shot)
        self._of_scene.append(shot)
        self._take_notes(part)
        self._end_speech()

    def _take_notes(self, part: Part, target: dict[str, Written] | None = None) -> None:
        """Keys in notes are the shot's; before the first of a scene they are of all its shots."""
        if target is None:
            target = self._of_scene[-1].written if self._of_scene else self._scene
        for note in part.notes:
            target.update(_note_keys(note, self.path))

    def _change(self, part: Part) -> None:
        self._take_notes(part, self._waiting)
        if _CROSSFADE.search(part.text):
            seconds = re.search(r"\d+(?:\.\d+)?", part.text)
            length = seconds[0] if seconds else f"{DEFAULT_CROSSFADE_SECONDS:g}"
            self._waiting["transition"] = Written(f"crossfade {length}", part.line)
        elif _CUT.search(part.text):
            self._waiting["transition"] = Written("cut", part.line)
        else:
            self._warn(
                part.line, f"{part.text!r} is not made here: a film has cuts and crossfades. It is left out."
            )

    def _end_speech(self) -> None:
        """Put what was said at the shot over which it is heard: the last of the scene, or the next."""
        if not self._speech or not self._of_scene:
            return
        shot = self._of_scene[-1]
        shot.speech_line = shot.speech_line or self._speech[0].line
        shot.speech += [f"{part.text}:" if part.kind == "speaker" else part.text for part in self._speech]
        self._speech = []

    def _warn(self, line: int, problem: str) -> None:
        self.warnings.append(f"{self.path}:{line}: {problem}")


def _shot(index: int, one: _Cut, top: Mapping[str, Value], path: Path) -> Shot:
    def fail(line: int, key: str, problem: str) -> SourceError:
        return SourceError(f"{path}:{line}: shots[{index}].{key}: {problem}")

    if one.speech and "marker" not in one.written:
        one.written["marker"] = Written(" ".join(one.speech), one.speech_line)
    scene = overridden(top, read_values(one.scene, fail))
    return make_shot(read_values(one.written, fail), scene, one.line, path.parent, "")


def _note_keys(note: Written, path: Path) -> dict[str, Written]:
    """What a note says of a shot; nothing where it is a note to people."""
    found = list(_NOTE_KEY.finditer(note.text))
    if not found or note.text[: found[0].start()].strip():
        word = _FIRST_WORD.match(note.text)
        close = difflib.get_close_matches(word[1].lower(), SHOT_KEYS, n=1, cutoff=0.75) if word else []
        if word and close:
            raise SourceError(f"{path}:{note.line}: {word[1]}: unknown key. Did you mean `{close[0]}`?")
        return {}
    keys: dict[str, Written] = {}
    ends = [*(match.start() for match in found[1:]), len(note.text)]
    for match, end in zip(found, ends, strict=True):
        key, line = as_key(match[1]), note.line + note.text.count("\n", 0, match.start(1))
        if key in REFUSED_KEYS:
            raise SourceError(f"{path}:{line}: {key}: {REFUSED_KEYS[key]}.")
        if key in keys:
            raise SourceError(f"{path}:{line}: {key}: given twice. Keep one.")
        keys[key] = Written(note.text[match.end() : end].strip(), line)
    return keys


def _read_heading(text: str, time_before: str) -> tuple[str, str]:
    """The sentence that tells where and when a scene plays, and the time of day alone."""
    text = _SCENE_NUMBER.sub("", text).strip().rstrip(".")
    places = [part.rstrip(".") for part in _DASH.split(_OUTSIDE.sub("", text)) if part.strip(" .")]
    time = ""
    if places and _SAME_TIME.fullmatch(places[-1]):
        places.pop()
        time = time_before
    elif places and _TIME.fullmatch(places[-1]):
        time = _calm(places.pop()).lower()
    calm = [_calm(place) for place in places]
    words = ", ".join(
        [*calm[:1], *(place[0].lower() + place[1:] for place in calm[1:]), *([time] if time else [])]
    )
    return sentence(words[:1].upper() + words[1:]) if words else "", time


def _calm(text: str) -> str:
    """A text in capitals, as headings are, as a sentence; others as they are."""
    return text if text.upper() != text else text.capitalize()
