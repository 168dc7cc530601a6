"""The script that the page shows: read, looked at while it is written, and saved."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swd_video.extensions import offered
from swd_video.files import write_beside_runs
from swd_video.plain_text import read_text
from swd_video.studio.script import Script, read_script

FORMS = {
    "yaml": "YAML",
    "json": "JSON",
    "csv": "CSV",
    "tsv": "TSV",
    "txt": "text, a prompt a line",
    "fountain": "Fountain",
    "fdx": "Final Draft",
}
"""Suffixes that a script may have, and what they stand for."""

MAX_BYTES = 8 * 2**20
"""Of a script; a thousand shots are a hundredth of that."""

_NAME = re.compile(r"""[^ ./\\:*?"<>|-][^/\\:*?"<>|]*\.[A-Za-z0-9]{1,12}""")
"""As people call their files, less what leads elsewhere or is no name on some system."""

_NAME_BYTES = 200
_LINE = re.compile(r":(\d+): ")


class ChangedMeanwhileError(ValueError):
    """Somebody else saved the script after it was read.

    Attributes:
        version: Of what they saved.
    """

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"{name} holds another text by now: somebody else saved it.")
        self.version = version


@dataclass(frozen=True)
class Look:
    """What a text is as a script.

    Attributes:
        script: The checked script; None where it has a problem.
        problems: What keeps it from being one: line (from 1; 0 for the whole) and text.
        warnings: What was left out though it may have been meant, in the same form.
    """

    script: Script | None
    problems: tuple[dict[str, Any], ...] = ()
    warnings: tuple[dict[str, Any], ...] = ()


class ScriptFile:
    """A script's file: one that the command line named, or one in the folder."""

    def __init__(self, folder: Path, path: Path, reader: str | None = None) -> None:
        """Take hold of a script, which need not be there yet.

        Further scripts are saved in the folder; the reader is for this script alone.
        """
        self.path = path
        self._folder = folder
        self._own, self._reader = path, reader

    def text(self) -> str:
        """What it holds, with the line ends of a page; nothing where it is not there yet.

        Raises:
            ValueError: if it is no text.
        """
        try:
            return with_line_ends_of_a_page(read_text(self.path))
        except FileNotFoundError:
            return ""
        except ValueError as error:
            raise ValueError(f"{self.path.name}: {error}") from None

    def look_at(self, text: str, name: str | None = None) -> Look:
        """Read a text as a script; the name of its file tells the form, by default that of this script."""
        path = self.path if name is None else self._place(name)
        if not text.strip():
            return Look(None)
        try:
            script = read_script(text, path, self._reader_of(path))
        except (ValueError, OSError) as error:
            return Look(None, tuple(at_line(line, path) for line in str(error).split("\n")))
        return Look(script, (), tuple(at_line(line, path) for line in script.warnings))

    def save(self, text: str, name: str, based_on: str) -> None:
        """Write a text that was made of a version, and go on with its file: this script's, or another in the folder.

        Raises:
            ChangedMeanwhileError: if the file holds another version.
            ValueError: if the name cannot be a script's.
        """
        path = self._place(name)
        found = ScriptFile(self._folder, path).text()
        if found and found != text and version_of(found) != based_on:
            raise ChangedMeanwhileError(path.name, version_of(found))
        if path.is_symlink():
            path = path.resolve()
        write_beside_runs(path, text)
        self.path = self._place(name)

    def reader_of_path(self) -> str | None:
        """The reader that commands are to be told."""
        return self._reader_of(self.path)

    def _reader_of(self, path: Path) -> str | None:
        return self._reader if path == self._own else None

    def _place(self, name: str) -> Path:
        if name == self.path.name:
            return self.path
        if name == self._own.name:
            return self._own
        if not (name.isprintable() and _NAME.fullmatch(name) and ".." not in name):
            raise ValueError(
                f"{name!r} cannot be a script's name. Begin with a letter, leave out / \\ : * ? \" < > |, and end with "
                "its form, such as .yaml."
            )
        if len(name.encode()) > _NAME_BYTES:
            raise ValueError(f"{name!r} is too long for a script's name. Use a shorter one.")
        suffix = Path(name).suffix.lower().removeprefix(".")
        if suffix not in (*FORMS, "yml", *offered("script_readers")):
            raise ValueError(f"{name!r}: no script ends like this. Known are: {', '.join(FORMS)}.")
        if suffix == "json" and not name.endswith(".script.json"):
            name = f"{Path(name).stem}.script.json"  # else it may be the sidecar of a clip
        return self._folder / name


def with_line_ends_of_a_page(text: str) -> str:
    """A text as a browser's text field holds it: with another one it would count as changed before it is touched."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def version_of(text: str) -> str:
    """Tells texts apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def at_line(message: str, path: Path) -> dict[str, Any]:
    """A message of the form `file:line: key: problem`, with its line."""
    rest = message.removeprefix(str(path))
    if found := _LINE.match(rest):
        return {"line": int(found[1]), "text": rest[found.end() :]}
    return {"line": 0, "text": rest.removeprefix(": ") if rest != message else message}
