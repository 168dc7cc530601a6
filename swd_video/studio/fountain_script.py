"""Scripts in Fountain, the plain text of screenwriters."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from screenplay_tools.fountain.parser import Parser
from screenplay_tools.screenplay import ElementType

from swd_video.studio.screenplay import NOTE, Part, PartKind, cut, is_of_title_page, unclosed_note
from swd_video.studio.script import Script, ScriptReader
from swd_video.studio.shot_values import Written
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
# Emphasis stands around words: `**bold**`, `*italic*`, `_underlined_`.
_EMPHASIS = re.compile(r"(?<![\\\w])(\*{1,3}|_)(?=\S)(.+?)(?<=[^\s\\])\1(?!\w)")
_ESCAPE = re.compile(r"\\([*_])")


class FountainReader(ScriptReader):
    """A screenplay; see `screenplay`. Notes, `[[seconds: 2, takes: 3]]`, and the title page carry keys."""

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        # Not the parser's way with them, so that lines and what stands around them stay.
        text = _BONEYARD.sub(lambda found: "\n" * found[0].count("\n"), text)
        before, opened, _ = text.partition("/*")
        if opened:
            line = before.count("\n") + 1
            raise SourceError(f"{path}:{line}: what `/*` takes out has no end. Write `*/` behind it.")
        reading = _Reading(text, path)
        title_page = reading.title_page()
        script = cut(reading.parts(), title_page, path)
        return replace(script, warnings=(*reading.warnings, *script.warnings))


_Notes: TypeAlias = tuple[Written, ...]


class _Reading:
    """A parser that was given all lines, and the notes of what it found, and where that starts and ends.

    It gets no notes: behind a transition or a name they would make it take that for action, and those of several lines
    behind dialogue would make it take the action for dialogue.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.parser: Any = Parser()
        self.parser.mergeActions = self.parser.mergeDialogue = False
        self.path = path
        self.warnings: list[str] = []
        self.elements: list[tuple[Any, _Notes, int, int]] = []
        self._titles: list[tuple[Any, int]] = []
        held: tuple[_Notes, int, int] | None = None  # a line that only the next one tells the kind of
        for line, notes, start, end in self._lines(text):
            new, titles = self._feed(line)
            if held is not None and new:
                self.elements.append((new.pop(0), *held))
            waits = bool(line.strip()) and not new and not titles and held is None
            held = (notes, start, end) if waits else None
            self.elements += [(element, notes, start, end) for element in new]
            self._titles += [(title, start) for title in titles]

    def _lines(self, text: str) -> Iterator[tuple[str, _Notes, int, int]]:
        """Every line and its notes, which may make it one of several, with the numbers of the first and the last."""
        lines = [*text.split("\n"), ""]
        number = 0
        while number < len(lines):
            start, line = number, lines[number]
            while line.rfind("[[") > line.rfind("]]"):
                number += 1
                if number == len(lines) or not lines[number].strip():
                    raise unclosed_note(self.path, start + 1)
                line += f"\n{lines[number]}"
            number += 1
            notes = tuple(
                Written(found[1], start + 1 + line.count("\n", 0, found.start()))
                for found in NOTE.finditer(line)
            )
            if notes:  # an empty line would end the paragraph
                line = " ".join(NOTE.sub("", line).split()) or "[[]]"
            yield line, notes, start + 1, number

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
            if is_of_title_page(key, line, self.path):
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
        for element, notes, start, end in self.elements:
            part = self._part(element, notes, start)
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

    def _part(self, element: Any, notes: _Notes, line: int) -> Part | None:
        kind = _KINDS.get(element.type)
        if kind is None:
            return None
        text = _plain(NOTE.sub("", element.text_raw))
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
