"""Scripts as tables that spreadsheets write: CSV and TSV, a shot in each row."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from swd_video.plain_text import as_key, did_you_mean, on_one_line
from swd_video.studio.script import DEFAULT_MODEL, Script, ScriptReader, Shot
from swd_video.studio.shot_values import (
    REFUSED_KEYS,
    SHOT_KEYS,
    Written,
    make_shot,
    read_values,
    with_ids,
)
from swd_video.yaml_source import SourceError, read_each

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SAID = re.compile(r"""\s*("?)sep=([^"\r\n])\1[ \t]*(?=[\r\n])""", re.IGNORECASE)
"""The line before the header by which a table tells Excel what stands between its columns."""


class TableReader(ScriptReader):
    """A header with keys of a shot, of which `prompt` must be one, and a shot in each row; empty cells give nothing.

    Columns stand between commas, semicolons or tabs, whichever the header has, or what a first line `sep=;` says;
    quotes are those of CSV.
    """

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        rows = _rows(text, path)
        line, header = next(rows, (1, []))
        keys = _keys(path, line, header)
        shots = read_each(lambda row: _read_row(row[0], *row[1], keys, path), enumerate(rows))
        return Script(path, on_one_line(path.stem), DEFAULT_MODEL, 0, with_ids(shots))


def _read_row(index: int, line: int, cells: list[str], keys: list[str], path: Path) -> Shot:
    def fail(line: int, key: str, problem: str) -> SourceError:
        return SourceError(f"{path}:{line}: shots[{index}].{key}: {problem}")

    if more := [cell for cell in cells[len(keys) :] if cell.strip()]:
        raise SourceError(
            f"{path}:{line}: shots[{index}]: has {len(cells)} cells, the header {len(keys)}: {more[0]!r} is "
            "in no column. Put a text that holds the separator in quotes."
        )
    written = {key: Written(cell, line) for key, cell in zip(keys, cells, strict=False) if cell.strip()}
    if "prompt" not in written:
        raise fail(line, "prompt", "the cell is empty. Write what the shot shows, or delete the row.")
    return make_shot(read_values(written, fail), {}, line, path.parent, "")


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not empty, with the line on which it starts."""
    if said := _SAID.match(text):
        separator, text = said[2], text[said.end() :]
    else:
        first = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
        separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                raise SourceError(
                    f"{path}:{line}: a cell of this row has more than {csv.field_size_limit()} characters, which is no "
                    "prompt. Shorten it, or close the quote with which it begins."
                ) from None
            problem = "a quote that opens here is not closed" if "end of data" in str(error) else str(error)
            between = _SEPARATORS.get(separator, repr(separator))
            raise SourceError(
                f"{path}:{line}: not a table with {between} between its columns: {problem}. Quotes "
                'inside of a text are written twice: "".'
            ) from None
        if any(cell.strip() for cell in cells):
            yield line, cells


def _keys(path: Path, line: int, header: list[str]) -> list[str]:
    while header and not header[-1].strip():
        header = header[:-1]
    keys = [as_key(cell) for cell in header]
    where = f"{path}:{line}: header"
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise SourceError(f"{where}: two columns are called {key!r}. Keep one.")
        if key in REFUSED_KEYS:
            raise SourceError(f"{where}: {key}: {REFUSED_KEYS[key]}.")
        if key not in SHOT_KEYS:
            cure = f"{did_you_mean(key, SHOT_KEYS, '', '{!r}')} Columns are {', '.join(SHOT_KEYS)}.".lstrip()
            raise SourceError(f"{where}: {header[number]!r} is no key of a shot. {cure}")
    if "prompt" not in keys:
        raise SourceError(f"{where}: has no column `prompt`. Write the keys of a shot into the first row.")
    return keys
