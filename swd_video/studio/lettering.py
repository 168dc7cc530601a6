"""Text as pictures, in whatever script it is: with fonts of this machine, or written out where it has none."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont, features

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

# Of the systems that people render on; Pillow looks for them by these names. The first that has a letter draws it.
_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf", "arial.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "YuGothM.ttc", "Hiragino Sans GB.ttc", "PingFang.ttc",
    "msyh.ttc", "malgun.ttf", "AppleSDGothicNeo.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf",
    "NotoNaskhArabic-Regular.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf", "seguisym.ttf", "seguiemj.ttf",
    "NotoSansSymbols2-Regular.ttf", "unifont.otf", "unifont.ttf",
)  # fmt: skip
_NOT_A_CHARACTER = "\uffff"


def draw_text(text: str, size: int, colour: Colour, background: Colour, width: int) -> Image.Image:
    """Text on as many lines as it needs, as wide as asked."""
    lines = _wrap(_runs(" ".join(text.splitlines()), size), width)
    # Room for what hangs below the last line, whether it has any or not, so that rows line up.
    ascent, descent = _fonts(size)[0].getmetrics()  # type: ignore[union-attr]
    pitch = ascent + descent + 4
    picture = Image.new("RGB", (width, pitch * len(lines)), background)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        left = 0.0
        for font, pieces in itertools.groupby(line, key=lambda entry: entry[0]):
            piece = "".join(text for _, text in pieces)
            draw.text((left, number * pitch + ascent), piece, fill=colour, font=font, anchor="ls")
            left += font.getlength(piece)
    return picture


def _wrap(runs: Iterable[tuple[_Font, str]], width: int) -> list[list[tuple[_Font, str]]]:
    """Break between words so that every line fits; a word wider than a line is cut."""
    lines: list[list[tuple[_Font, str]]] = [[]]
    used = 0.0
    for font, run in runs:
        for word in re.findall("[^ ]* |[^ ]+", run):  # each with the space behind it
            length = font.getlength(word)
            if used + font.getlength(word.rstrip()) > width and used:
                lines.append([])
                used = 0.0
            pieces = [word] if length <= width else list(_cut(font, word, width))
            for index, piece in enumerate(pieces):
                if index:
                    lines.append([])
                lines[-1].append((font, piece))
            used = used + length if len(pieces) == 1 else font.getlength(pieces[-1])
    return lines


def _cut(font: _Font, word: str, width: int) -> Iterator[str]:
    piece = ""
    for letter in word:
        if piece and font.getlength(piece + letter) > width:
            yield piece
            piece = ""
        piece += letter
    yield piece


def _runs(text: str, size: int) -> Iterator[tuple[_Font, str]]:
    """Neighbouring letters that one font draws; what none draws is written out in the default one."""
    fonts = _fonts(size)
    chosen: list[int | None] = []
    for letter in text:
        before = chosen[-1] if chosen else 0
        if letter == " ":  # within a run, so that words that run leftwards keep their order
            chosen.append(before or 0)
        elif unicodedata.category(letter) in ("Mn", "Me", "Mc", "Cf"):  # joins the letter before it
            chosen.append(before)
        else:
            chosen.append(_font_of(letter, fonts))
    for index, group in itertools.groupby(zip(text, chosen, strict=True), key=lambda entry: entry[1]):
        piece = "".join(letter for letter, _ in group)
        if index is None:
            yield fonts[0], "[" + " ".join(map(_written_out, piece)) + "]"
        else:
            yield fonts[index], piece


def _font_of(letter: str, fonts: Sequence[_Font]) -> int | None:
    # Without the library for it, letters that join or run leftwards would stand apart and in the wrong order.
    if unicodedata.bidirectional(letter) in ("R", "AL") and not features.check("raqm"):
        return None
    return next((index for index, font in enumerate(fonts) if _draws(font, letter)), None)


def _draws(font: _Font, letter: str) -> bool:
    """Whether a font has a letter: else it draws the same as for what is no letter."""
    return bytes(font.getmask(letter)) != bytes(font.getmask(_NOT_A_CHARACTER))


def _written_out(letter: str) -> str:
    """A sign by its name, a letter by its number, which is shorter."""
    name = unicodedata.name(letter, "")
    return name.lower() if name and unicodedata.category(letter).startswith("S") else f"U+{ord(letter):04X}"


@lru_cache
def _fonts(size: int) -> tuple[_Font, ...]:
    found: list[_Font] = [ImageFont.load_default(size)]
    for name in _FONTS:
        with suppress(OSError):  # not on this machine
            found.append(ImageFont.truetype(name, size))
    return tuple(found)
