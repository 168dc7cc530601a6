import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from swd_video.config import Section
from tools.config_tables import TABLES, keys_tables, main

ROOT = Path(__file__).parents[2]


def test_the_tables_in_the_documents_are_up_to_date() -> None:
    assert main(["--check", "--root", str(ROOT)]) == 0


@pytest.mark.parametrize("marker", TABLES)
def test_every_key_says_what_it_is(marker: str) -> None:
    rows = re.findall(r"^\| `(.+)` \|.*\| (.*) \|$", keys_tables(TABLES[marker]), flags=re.MULTILINE)
    assert len(rows) > 10
    assert [key for key, says in rows if not re.sub(r"^\(.*?\) ?", "", says)] == []


def test_a_table_that_is_out_of_date_is_named_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    document = tmp_path / "docs/keys.md"
    right = document.read_text()
    document.write_text(right.replace("| `page.samples` |", "| `page.sample` |"))
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "keys of evaluate: out of date. Run: python -m tools.config_tables" in capsys.readouterr().err
    assert main(["--root", str(tmp_path)]) == 0
    assert document.read_text() == right


class Round(Section):
    """A round thing."""

    kind: Literal["round"] = "round"
    size_px: int = Field(default=3, ge=1)
    """Across."""


class Square(Section):
    """A thing with corners."""

    kind: Literal["square"] = "square"
    corners: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    """How sharp each is."""


class Things(Section):
    """Some things."""

    first: Annotated[Round | Square, Field(discriminator="kind")] = Round()
    """Where it starts."""
    others: tuple[Square, ...] = ()
    """What follows,
    a | b."""


class Root(Section):
    """All."""

    things: Things = Things()


def test_a_table_has_types_limits_kinds_and_lists() -> None:
    head = "| key | takes | default | says |\n|---|---|---|---|\n"
    assert keys_tables(Root) == (
        f"**`things`**: Some things.\n\n{head}"
        "| `things.first.kind` | `round`, `square` | `round` | Where it starts. `round`: A round thing. `square`: A "
        "thing with corners. |\n"
        "| `things.first.size_px` | whole number from 1 | `3` | (`round`) Across. |\n"
        "| `things.first.corners` | list of numbers above 0 below 1 | required | (`square`) How sharp each is. |\n"
        "| `things.others` | list of sections | `[]` | What follows, a \\| b. |\n"
        f"\n**`things.others[]`**: A thing with corners.\n\n{head}"
        "| `things.others[].kind` | `square` | `square` | `square`: A thing with corners. |\n"
        "| `things.others[].corners` | list of numbers above 0 below 1 | required | How sharp each is. |"
    )


class Pair(Section):
    """Two things."""

    left: Square | None = None
    """One."""
    right: Square | None = None
    """The other."""


def test_a_section_in_a_second_place_refers_to_the_first() -> None:
    text = keys_tables(Pair)
    assert "`left.corners`" in text and "`right.corners`" not in text
    assert text.endswith("\n\n**`right`**: The same keys as `left`.")
