"""Texts that people write, as every tokenizer, file and terminal takes them."""

import codecs
import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

_SPACES = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")
_UNREADABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


# In this order: the mark of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | os.PathLike[str]) -> str:
    """Text that people wrote: UTF-8, or UTF-16 or UTF-32 that begins with its mark, as Windows writes it.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such text; the message names the line, to be put behind the file's name.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line}: byte 0x{content[error.start]:02x} belongs to no text in UTF-8; save the file as UTF-8."
            if encoding == "utf-8-sig"
            else f"line {line}: begins as {encoding.upper()} but does not go on so; save the file as UTF-8."
        ) from None


def numbered_lines(path: str | os.PathLike[str], missing: str) -> list[tuple[int, str]]:
    """The lines of a file that people wrote, but for blank ones, with their numbers from 1.

    Args:
        path: the file.
        missing: what is said behind its name where it does not exist.

    Raises:
        ValueError: if it cannot be read as text.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: {missing}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as text: {error}") from None
    # Not splitlines(): JSON may hold other line ends, such as U+2028, inside a text.
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def clean_text(text: str, name: str = "") -> str:
    r"""A prompt or caption as every tokenizer takes it.

    Two surrogates that stand for one character, as JSON and YAML may write an emoji, become that character, and control
    characters that part words (a form feed, say) become spaces. Tabs and line ends stay.

    Raises:
        ValueError: if it holds a lone surrogate, U+FFFE or U+FFFF, or a control character that parts nothing, which a
            tokenizer or another reader would refuse or drop. The message says which and where, behind the name of the
            text.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    text = _SPACES.sub(" ", text)
    if found := _UNREADABLE.search(text):
        kind = "half a character (a lone surrogate)" if found[0] >= "\ud800" else "a control character"
        kind = "what is no character" if found[0] >= "\ufffe" else kind
        raise ValueError(
            f"{name} holds {kind}, U+{ord(found[0]):04X}, as character {found.start() + 1}; ".lstrip()
            + "delete it or write the text anew."
        )
    return text


def on_one_line(text: str) -> str:
    """A name or a message as it can be printed anywhere, in one line: line ends as spaces, what has no form escaped."""
    return _UNREADABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", " ".join(text.split()))


def as_key(name: str) -> str:
    """A name in the form of the keys of files: `negative_prompt` for "Negative prompt" and `negative-prompt`."""
    return re.sub(r"[ -]", "_", on_one_line(name).lower())


def first_line(error: BaseException) -> str:
    """What an error of another library says first; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, form: str = "`{}`") -> str:
    """What to do about a name that nothing has: take the nearest of the known ones, as `form` writes it, or else."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {form.format(close[0])}?" if close else otherwise


def sentence(text: str) -> str:
    """A text that ends as a sentence does, so that another may follow: with a full stop where it has no such end."""
    return text if text[-1:] in ".!?…:;" or text[-2:-1] in ".!?…" else f"{text}."


def describe_error(error: BaseException) -> str:
    """An error that nobody foresaw, in one line: what kind it is, and its first line."""
    kind, said = type(error).__name__, first_line(error)
    return on_one_line(kind if said == kind else f"{kind}: {said}")
