"""Scripts in Fountain, the plain text of screenwriters."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from screenplay_tools.fountain.parser import Parser
from screenplay_tools.screenplay import ElementType

from swd_video.studio.screenplay import TITLE_PAGE_KEYS, Part, PartKind, cut
from swd_video.studio.script import Script, ScriptReader
from swd_video.studio.shot_values import REFUSED_KEYS, Written
from swd_video.yaml_source import SourceError

_KINDS: dict[ElementType, PartKind] = {
    ElementType.HEADING: "heading",
    ElementType.ACTION: "action",
    ElementType.CHARACTER: "speaker",
    ElementType.PARENTHETICAL: "speech",
    ElementType.DIALOGUE: "speech",
    ElementType.LYRIC: "speech",
    ElementType.TRANSITION: "transition",
}
# Sections, synopses and page breaks are none of these: they are for whoever writes.

_USUAL_ON_TITLE_PAGES = (
    "author", "authors", "contact", "copyright", "credit", "date", "draft", "draft date", "font", "format", "notes",
    "revision", "source", "written by",
)  # fmt: skip
_BONEYARD = re.compile(r"/\*.*?\*/", re.DOTALL)
_NOTE = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
# Emphasis stands around words: `**bold**`, `*italic*`, `_underlined_`.
_EMPHASIS = re.compile(r"(?<![\\\w])(\*{1,3}|_)(?=\S)(.+?)(?<=[^\s\\])\1(?!\w)")
_ESCAPE = re.compile(r"\\([*_])")


class FountainReader(ScriptReader):
    """A screenplay; see `screenplay`. Notes, `[[seconds: 2, takes: 3]]`, and the title page carry keys."""

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        # Not the parser's way with them, so that lines and what stands around them stay.
        text = _BONEYARD.sub(lambda found: "\n" * found[0].count("\n"), text)
        reading = _Reading(text.replace("\r\n", "\n").replace("\r", "\n"), path)
        title_page = reading.title_page()
        script = cut(reading.parts(), title_page, path)
        return replace(script, warnings=(*reading.warnings, *script.warnings))


class _Reading:
    """A parser that was given all lines, and where what it found starts and ends.

    It gets every note as a number, in the line in which the note begins: a note of several lines behind dialogue would
    make the parser take the action for dialogue.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.parser: Any = Parser()
        self.parser.mergeActions = self.parser.mergeDialogue = False
        self.path = path
        self.warnings: list[str] = []
        self.notes: list[Written] = []
        self.elements: list[tuple[Any, int, int]] = []
        self._titles: list[tuple[Any, int]] = []
        held: tuple[int, int] | None = None  # a line that only the next one tells the kind of
        for line, start, end in self._lines(text):
            new, titles = self._feed(line)
            if held is not None and new:
                self.elements.append((new.pop(0), *held))
            waits = bool(line.strip()) and not new and not titles and held is None
            held = (start, end) if waits else None
            self.elements += [(element, start, end) for element in new]
            self._titles += [(title, start) for title in titles]

    def _lines(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Every line with the numbers of its first and its last in the file, where notes make it of several."""
        lines = [*text.split("\n"), ""]
        number = 0
        while number < len(lines):
            start, line = number, lines[number]
            while line.rfind("[[") > line.rfind("]]"):
                number += 1
                if number == len(lines) or not lines[number].strip():
                    raise SourceError(
                        f"{self.path}:{start + 1}: a note, `[[`, is not closed before the paragraph ends. Write `]]` "
                        "behind it."
                    )
                line += f"\n{lines[number]}"
            number += 1
            yield self._number_notes(line, start + 1), start + 1, number

    def _number_notes(self, line: str, start: int) -> str:
        def put_away(found: re.Match[str]) -> str:
            self.notes.append(Written(found[1], start + line.count("\n", 0, found.start())))
            return f"[[{len(self.notes) - 1}]]"

        return _NOTE.sub(put_away, line).replace("\n", " ")

    def _feed(self, line: str) -> tuple[list[Any], list[Any]]:
        script = self.parser.script
        before = len(script.elements), len(script.titleEntries)
        self.parser.add_line(line)
        found = script.elements[before[0] :]
        titles = script.titleEntries[before[1] :]
        return [one for one in found if one.text_raw.strip() or one.type == ElementType.CHARACTER], titles

    def title_page(self) -> dict[str, Written]:
        """What the title page says that is for us."""
        found: dict[str, Written] = {}
        for entry, line in self._titles:
            key = entry.key.strip().lower()
            if key in REFUSED_KEYS:
                raise SourceError(f"{self.path}:{line}: {key}: {REFUSED_KEYS[key]}.")
            if key in TITLE_PAGE_KEYS:
                found[key] = Written(_plain(entry.text_raw), line)
            elif key not in _USUAL_ON_TITLE_PAGES:
                self.warnings.append(
                    f"{self.path}:{line}: {entry.key!r} is taken for a key of the title page and left out. "
                    "If it belongs to the screenplay, begin the file with an empty line."
                )
        return found

    def parts(self) -> Iterator[Part]:
        """The screenplay; lines of action that follow each other are one paragraph."""
        paragraph: list[Part] = []
        ended = 0
        for element, start, end in self.elements:
            part = self._part(element, start)
            if paragraph and (part is None or part.kind != "action" or start > ended + 1):
                yield _joined(paragraph)
                paragraph = []
            ended = end
            if part is not None and part.kind == "action":
                paragraph.append(part)
            elif part is not None:
                yield part
        if paragraph:
            yield _joined(paragraph)

    def _part(self, element: Any, line: int) -> Part | None:
        kind = _KINDS.get(element.type)
        if kind is None:
            return None
        raw = element.text_raw
        notes = tuple(self.notes[int(found[1])] for found in _NOTE.finditer(raw))
        text = _plain(_NOTE.sub("", raw))
        if element.type == ElementType.CHARACTER:
            text = element.name + (f" ({element.extension})" if element.extension else "")
        elif element.type == ElementType.PARENTHETICAL:
            text = f"({text})"
        elif element.type == ElementType.HEADING and text.upper().startswith("FADE IN"):
            kind = "transition"
        elif element.type == ElementType.ACTION and element.centered:
            kind = "card"
        return Part(kind, text, line, notes)


def _joined(paragraph: list[Part]) -> Part:
    notes = tuple(note for part in paragraph for note in part.notes)
    return Part("action", " ".join(part.text for part in paragraph), paragraph[0].line, notes)


def _plain(text: str) -> str:
    """A text without emphasis."""
    for _ in range(3):  # one in another
        text = _EMPHASIS.sub(r"\2", text)
    return _ESCAPE.sub(r"\1", " ".join(text.split()))
