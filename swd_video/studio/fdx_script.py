"""Scripts of Final Draft (`.fdx`)."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.parsers import expat

from swd_video.plain_text import on_one_line
from swd_video.studio.screenplay import NOTE, Part, PartKind, cut, is_of_title_page, unclosed_note
from swd_video.studio.script import Script, ScriptReader
from swd_video.studio.shot_values import Written
from swd_video.yaml_source import SourceError

_KINDS: dict[str, PartKind] = {
    "Scene Heading": "heading",
    "Scene Heading (Top of Page)": "heading",
    "Shot": "direction",
    "Action": "action",
    "General": "action",
    "Character": "speaker",
    "Parenthetical": "speech",
    "Dialogue": "speech",
    "Singing": "speech",
    "Lyrics": "speech",
    "Transition": "transition",
}
_WITHOUT_PICTURE = {"Cast List", "New Act", "End of Act", "Show/Ep. Title"}
_BODY, _TITLE_PAGE = ("FinalDraft", "Content"), ("FinalDraft", "TitlePage", "Content")
_AGAIN = re.compile(r"\(\s*CONT.?D\s*\)", re.IGNORECASE)
_KEY = re.compile(r"\s*(\w+)\s*:\s*(.*\S)\s*", re.DOTALL)


@dataclass
class _Paragraph:
    kind: str
    line: int
    texts: list[str] = field(default_factory=list)
    notes: list[Written] = field(default_factory=list)
    of_note: bool = False


class FdxReader(ScriptReader):
    """A screenplay; see `screenplay`. Keys stand in script notes, or between `[[` and `]]`, and on the title page."""

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        document = _Document(text, path)
        parts, warnings = [], []
        for paragraph in document.body:
            if paragraph.kind in _KINDS:
                parts.append(_part(paragraph, path))
            elif paragraph.kind not in _WITHOUT_PICTURE and "".join(paragraph.texts).strip():
                kind = on_one_line(paragraph.kind)
                warnings.append(f"{path}:{paragraph.line}: a paragraph of the kind {kind!r} is left out.")
        script = cut(parts, _title_page(document.title_page, path), path)
        return replace(script, warnings=(*warnings, *script.warnings))


class _Document:
    """The paragraphs of a file, those of its body and of its title page, each with its line."""

    def __init__(self, text: str, path: Path) -> None:
        self.body: list[_Paragraph] = []
        self.title_page: list[_Paragraph] = []
        self._names: list[str] = []
        self._open: list[_Paragraph] = []
        self._path, self._parser = path, expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._refuse_entity
        try:
            self._parser.Parse(text, True)
        except expat.ExpatError as error:
            problem = expat.ErrorString(error.code)
            raise SourceError(
                f"{path}:{error.lineno}: not valid XML: {problem}. Save it from Final Draft anew."
            ) from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._names and name != "FinalDraft":
            raise SourceError(
                f"{self._path}:{self._parser.CurrentLineNumber}: begins with <{name}>, expected <FinalDraft>. Save it "
                "as a Final Draft document."
            )
        self._names.append(name)
        if name != "Paragraph":
            return
        paragraph = _Paragraph(attributes.get("Type", "Action"), self._parser.CurrentLineNumber)
        paragraph.of_note = "ScriptNote" in self._names
        if not paragraph.of_note:
            for paragraphs, inside in ((self.body, _BODY), (self.title_page, _TITLE_PAGE)):
                if tuple(self._names[: len(inside)]) == inside:
                    paragraphs.append(paragraph)
        self._open.append(paragraph)

    def _end(self, name: str) -> None:
        self._names.pop()
        if name == "Paragraph":
            ended = self._open.pop()
            if ended.of_note and self._open:
                self._open[-1].notes.append(Written("".join(ended.texts), ended.line))

    def _text(self, text: str) -> None:
        if self._open and self._names[-1] == "Text":
            self._open[-1].texts.append(text)

    def _refuse_entity(self, name: str, *rest: object) -> None:
        raise SourceError(
            f"{self._path}:{self._parser.CurrentLineNumber}: declares an entity, {name!r}, which no Final Draft "
            "document does. Delete it."
        )


def _part(paragraph: _Paragraph, path: Path) -> Part:
    raw = "".join(paragraph.texts)
    notes = [*paragraph.notes, *(Written(found[1], paragraph.line) for found in NOTE.finditer(raw))]
    text = " ".join(NOTE.sub("", raw).split())
    if "[[" in text:
        raise unclosed_note(path, paragraph.line)
    kind = _KINDS[paragraph.kind]
    if kind == "speaker":
        text = _AGAIN.sub("", text).strip()
    return Part(kind, text, paragraph.line, tuple(notes))


def _title_page(paragraphs: list[_Paragraph], path: Path) -> dict[str, Written]:
    """The title, which stands first, and keys with a colon."""
    found: dict[str, Written] = {}
    for paragraph in paragraphs:
        text = " ".join("".join(paragraph.texts).split())
        pair = _KEY.fullmatch(text)
        if pair and is_of_title_page(pair[1].lower(), paragraph.line, path):
            found[pair[1].lower()] = Written(pair[2], paragraph.line)
        elif text and "title" not in found:
            found["title"] = Written(text, paragraph.line)
    return found
