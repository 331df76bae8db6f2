"""Reading tables back: what `render.write` wrote comes back cell by cell, a page and files that differ are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tli.io.errors import UserError
from tli.paper import collected
from tli.paper.render import Column, Figure, Table, write

TABLE = Table(
    "gain",
    "Gains",
    "What a pair gains. With a bar.",
    (
        Column("view", "view"),
        Column("gain", "|gain|", "change"),
        Column("log10_p", "p", "p"),
        Column("n", "n", "count"),
    ),
    (
        {"view": "2.mask.nf4", "gain": -0.0902, "log10_p": -240.0, "n": 1234},
        {"view": "a|b", "gain": None, "log10_p": -0.5, "n": None},
    ),
    notes=("one", "two"),
)
SECOND = Table("none", "Nothing", "No rows.", (Column("what", "what"),), (), view="none")
FIGURES = [Figure("scan.svg", "A scan.", "Four plots.")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "tables", ["# Tables"], [TABLE, SECOND], FIGURES, "../figures")
    return tmp_path / "tables"


def test_what_was_written_is_read(folder: Path) -> None:
    page = collected.read(folder)
    assert [*page.tables] == ["gain", "none"]
    table = page.tables["gain"]
    assert (table.title, table.caption, table.notes) == (TABLE.title, TABLE.caption, ("one", "two"))
    assert [(column.key, column.title, column.number) for column in table.columns] == [
        ("view", "view", False),
        ("gain", "|gain|", True),
        ("log10_p", "p", True),
        ("n", "n", True),
    ]
    assert table.lines == (("2.mask.nf4", "−0.0902", "1.00e-240", "1,234"), ("a|b", "-", "0.3162", "-"))
    assert table.number("gain", view="2.mask.nf4") == -0.0902
    assert table.number("gain", view="a|b") is None
    assert page.tables["none"].lines == ()
    assert page.figures == tuple(FIGURES)


def test_a_row_that_is_not_there_is_told(folder: Path) -> None:
    table = collected.read(folder).tables["gain"]
    with pytest.raises(UserError, match="table gain: expected one row with view=3 and a column gain, got 0 rows"):
        table.number("gain", view="3")
    with pytest.raises(UserError, match="a column loss, got 1 rows"):
        table.number("loss", view="a|b")


def test_a_page_that_its_files_do_not_match_is_told(folder: Path) -> None:
    with (folder / "gain.csv").open("a") as file:
        file.write("c,1,1,1\n")
    with pytest.raises(UserError, match=r"gain\.csv: expected 4 columns and 2 rows as on the page, got 4 and 3"):
        collected.read(folder)
    with pytest.raises(UserError, match="expected the tables' page, found no file"):
        collected.read(folder / "absent")
